"""The ratios, sizes and parameters of OpenRouter's two wires, and the modalities of its models.

Any model name passes: OpenRouter has hundreds, and refuses unknown ones itself.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from providers.shared.pixels import pixels_in, ratio_in

# The longest prompt of a job; the models' own limits are in tokens, and larger.
MAX_PROMPT_CHARS = 32_000
MAX_INPUTS = 16
MAX_INPUT_BYTES = 20 * 1024**2  # of one picture; base64 makes a third more of it
SEED_RANGE = (0, 2**31 - 1)

# Ratios of `image_config`, and the pixels that they give at 1K (source: OpenRouter's guide to image generation).
CHAT_RATIOS = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
_CHAT_TIERS = {"1K": 1, "2K": 2, "4K": 4}  # the sides at each resolution, as multiples of those at 1K
_NEAR = 0.03  # the pixels of a ratio are not exactly its ratio

# Source: the request type of the images endpoint in OpenRouter's own Python client, 1.3.
# fmt: off
IMAGES_RATIOS = (
    "1:1", "1:2", "1:4", "1:8", "2:1", "2:3", "2.35:1", "3:2", "3:4", "4:1", "4:3", "4:5", "5:2", "5:4", "5:7", "7:5",
    "8:1", "9:16", "16:9", "9:19.5", "19.5:9", "9:20", "20:9", "9:21", "21:9",
)
# fmt: on
_SIDES = (64, 8192)

CHAT_PARAMS: dict[str, tuple[str, ...]] = {"image_size": tuple(_CHAT_TIERS), "user": ()}
IMAGES_PARAMS: dict[str, tuple[str, ...]] = {
    "resolution": ("512", "768", "1K", "1.5K", "2K", "4K"),
    "quality": ("auto", "low", "medium", "high", "xhigh", "max"),
    "background": ("auto", "transparent", "opaque"),
    "user": (),
}

# These models return only pictures: a request that also wants text finds no endpoint.
_PICTURES_ONLY = re.compile(r"(?:black-forest-labs|sourceful|bytedance-seed)/")


def modalities(model: str) -> list[str]:
    """The modalities of a chat request to `model`."""
    return ["image"] if _PICTURES_ONLY.match(model.lower()) else ["image", "text"]


def chat_config(size: str | None) -> dict[str, str]:
    """The `image_config` for a job's size; raises ValueError with what is accepted.

    A size in pixels becomes its ratio and the smallest resolution that is as large. 1K is the default, and the only
    resolution of some models, so it is not sent.
    """
    if size is None:
        return {}
    if ratio := ratio_in(size):
        return {"aspect_ratio": _named(size, ratio, tuple(CHAT_RATIOS))}
    width, height = pixels_in(size)
    name = _nearest(size, width, height)
    at_1k = CHAT_RATIOS[name]
    for tier, times in _CHAT_TIERS.items():
        if all(side * (1 - _NEAR) <= made * times for side, made in zip((width, height), at_1k, strict=True)):
            return {"aspect_ratio": name} | ({} if tier == "1K" else {"image_size": tier})
    most = "x".join(str(side * _CHAT_TIERS["4K"]) for side in at_1k)
    raise ValueError(f"{size} is too large: at {name} these models make {most} at most.")


def images_size(size: str | None) -> dict[str, str]:
    """The fields of an images request for a job's size; raises ValueError with what is accepted."""
    if size is None:
        return {}
    if ratio := ratio_in(size):
        return {"aspect_ratio": _named(size, ratio, IMAGES_RATIOS)}
    width, height = pixels_in(size)
    if not _SIDES[0] <= min(width, height) <= max(width, height) <= _SIDES[1]:
        raise ValueError(f"{size} is not accepted: sides must lie in {_SIDES[0]}..{_SIDES[1]}.")
    return {"size": size}


def _named(size: str, ratio: tuple[int, int], accepted: tuple[str, ...]) -> str:
    """The accepted name of a ratio: 32:18 is 16:9."""
    for name in accepted:
        width, _, height = name.partition(":")
        if Fraction(width) / Fraction(height) == Fraction(*ratio):
            return name
    raise ValueError(f"The ratio {size} is not accepted; accepted are {', '.join(accepted)}.")


def _nearest(size: str, width: int, height: int) -> str:
    """The ratio of a size in pixels: by its name, or by the pixels that are made for it."""

    def off(name: str) -> float:
        of_name = [int(side) for side in name.split(":")]
        return min(abs(math.log(width / height * h / w)) for w, h in (of_name, CHAT_RATIOS[name]))

    nearest = min(CHAT_RATIOS, key=off)
    if off(nearest) > _NEAR:
        raise ValueError(f"{size} has none of the accepted ratios, which are {', '.join(CHAT_RATIOS)}.")
    return nearest
