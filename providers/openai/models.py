"""The limits of each family of OpenAI image models, the nearest of its sizes, and the cost of a call.

Any model name passes: compatible gateways serve retired and foreign models, which get generous limits. Prices are
OpenAI's of November 2026 in USD for a million tokens (source: the price map of litellm 1.106.2). A model without a
price here has no cost: none is better than a wrong one. Gateways may charge another price.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from providers.shared.pixels import near_one_megapixel, pixels_in, ratio_in

GPT_IMAGE_PARAMS = frozenset(
    {"quality", "background", "moderation", "input_fidelity", "user", "safety_identifier"}
)
_STEPPING = {"steps", "num_inference_steps", "guidance", "guidance_scale", "strength"}
COMPATIBLE_PARAMS = GPT_IMAGE_PARAMS | _STEPPING | {"style", "watermark", "prompt_extend"}
# The prices of text read, pictures read and pictures made, by the version of gpt-image.
_PER_MILLION = {"2": (5, 8, 30), "2.5": (5, 8, 30)}
_PRICED = re.compile(r"gpt-image-(\d+(?:\.\d+)?)(?:-(?:sunburst|flare))?(?:-\d{4}-\d{2}-\d{2})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The limits of one family. `choices` limits the values of some parameters."""

    max_prompt_chars: int
    max_inputs: int
    params: frozenset[str]
    sizes: tuple[str, ...] = ()  # empty: any size that `size_problem` accepts
    size_problem: Callable[[int, int], str | None] | None = None
    choices: dict[str, tuple[str, ...]]
    has_seed: bool = False
    has_negative_prompt: bool = False
    encodes: bool = True  # takes output_format and output_compression
    has_response_format: bool = False  # gpt-image models answer 400 to the field itself
    response_format: str | None = None  # the default of the credential's option

    def wire_size(self, size: str | None) -> str | None:
        """The size to send for a job's size; raises ValueError with what is accepted."""
        if size is None:
            return None
        if ratio := ratio_in(size):
            return self._nearest(*ratio)
        width, height = pixels_in(size)
        if self.sizes and size not in self.sizes:
            raise ValueError(f"{size} is not accepted by this model; it accepts {', '.join(self.sizes)}.")
        self._check(size, width, height)
        return size

    def _nearest(self, width: int, height: int) -> str:
        if not self.sizes:
            w, h = near_one_megapixel(width, height)
            self._check(f"{width}:{height}", w, h)
            return f"{w}x{h}"
        wanted = math.log(width / height)

        def distance(size: str) -> float:
            w, h = pixels_in(size)
            return abs(math.log(w / h) - wanted)

        return min(self.sizes, key=distance)

    def _check(self, size: str, width: int, height: int) -> None:
        if self.size_problem and (problem := self.size_problem(width, height)):
            raise ValueError(f"{size} is not accepted by this model: {problem}.")


def family_of(model: str) -> Family:
    """The limits of `model`; a name that is not OpenAI's gets those of a generous compatible gateway."""
    name = model.rpartition("/")[2].lower()
    if found := re.match(r"gpt-image-(\d+)(?:\.(\d+))?", name):
        version = (int(found[1]), int(found[2] or 0))
        if version >= (2, 5):
            return _GPT_IMAGE_25
        return _GPT_IMAGE_2 if version >= (2, 0) else _GPT_IMAGE_1
    return {"dall-e-3": _DALL_E_3, "dall-e-2": _DALL_E_2}.get(name, _COMPATIBLE)


def _flexible_size_problem(width: int, height: int) -> str | None:
    if width % 16 or height % 16:
        return "both sides must be multiples of 16"
    if not 1 / 3 <= width / height <= 3:
        return "the ratio must lie between 1:3 and 3:1"
    if max(width, height) > 3840 or min(width, height) > 2160:
        return "it may be at most 3840x2160 (or 2160x3840)"
    return None


def _sane_size_problem(width: int, height: int) -> str | None:
    return None if 16 <= min(width, height) <= max(width, height) <= 4096 else "sides must lie in 16..4096"


_QUALITY = ("auto", "low", "medium", "high")
_GPT_CHOICES = {
    "quality": _QUALITY,
    "background": ("transparent", "opaque", "auto"),
    "moderation": ("low", "auto"),
    "input_fidelity": ("high", "low"),
}

_GPT_IMAGE_2 = Family(
    max_prompt_chars=32_000,
    max_inputs=16,
    params=GPT_IMAGE_PARAMS,
    size_problem=_flexible_size_problem,
    choices=_GPT_CHOICES,
)
_GPT_IMAGE_1 = replace(_GPT_IMAGE_2, sizes=("1024x1024", "1536x1024", "1024x1536"), size_problem=None)
_GPT_IMAGE_25 = replace(_GPT_IMAGE_2, choices=_GPT_CHOICES | {"quality": (*_QUALITY, "xhigh", "max")})
_DALL_E_2 = Family(
    max_prompt_chars=1_000,
    max_inputs=0,
    params=frozenset({"user"}),
    sizes=("256x256", "512x512", "1024x1024"),
    choices={},
    encodes=False,
    has_response_format=True,
    response_format="b64_json",
)
_DALL_E_3 = replace(
    _DALL_E_2,
    max_prompt_chars=4_000,
    params=frozenset({"quality", "style", "user"}),
    sizes=("1024x1024", "1792x1024", "1024x1792"),
    choices={"quality": ("standard", "hd"), "style": ("vivid", "natural")},
)
_COMPATIBLE = Family(
    max_prompt_chars=32_000,
    max_inputs=16,
    params=COMPATIBLE_PARAMS,
    size_problem=_sane_size_problem,
    choices={},
    has_seed=True,
    has_negative_prompt=True,
    has_response_format=True,
)


def cost_of(model: str, usage: Mapping[str, Any], *, edited: bool) -> Decimal | None:
    """The cost in USD; None if the price or the tokens are not known.

    `edited`: the call had input pictures. Their tokens cost more than tokens of text, so the answer must count both
    sorts.
    """
    found = _PRICED.fullmatch(model.rpartition("/")[2].lower())
    prices = _PER_MILLION.get(found[1]) if found else None
    if prices is None:
        return None
    inputs = _input_tokens(usage, edited=edited)
    made = _count(usage.get("output_tokens"))
    if inputs is None or made is None:
        return None
    text, image = inputs
    return Decimal(text * prices[0] + image * prices[1] + made * prices[2]) / 1_000_000


def _input_tokens(usage: Mapping[str, Any], *, edited: bool) -> tuple[int, int] | None:
    """The input tokens: (text, image)."""
    details = usage.get("input_tokens_details")
    if isinstance(details, dict):
        text, image = _count(details.get("text_tokens")), _count(details.get("image_tokens"))
        return None if text is None or image is None else (text, image)
    total = _count(usage.get("input_tokens"))
    return None if edited or total is None else (total, 0)


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
