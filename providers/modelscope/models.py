"""The limits of the image models of ModelScope's API-Inference, checked before anything is sent.

Source: modelscope.cn, documentation of API-Inference, image generation (2026-11). Any model id of the hub passes;
models that the page does not list get its widest limits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from providers.base import Scalar
from providers.shared.pixels import near_one_megapixel, pixels_in, ratio_in

MAX_PROMPT_CHARS = 1999  # "less than 2000"
SEED_RANGE = (0, 2**31 - 1)
MAX_LORAS = 6


@dataclass(frozen=True, slots=True)
class Rules:
    """The limits of one family of models: sides of `least` to `longest` pixels, and input pictures."""

    least: int
    longest: int
    max_inputs: int

    def wire_size(self, size: str | None) -> str | None:
        """The size to send for a job's size; raises ValueError with what is accepted."""
        if size is None:
            return None
        if ratio := ratio_in(size):
            width, height = near_one_megapixel(*ratio, longest=self.longest)
            if min(width, height) < self.least:
                most = self.longest // self.least
                raise ValueError(f"{size} is too long for this model; ratios may be 1:{most} to {most}:1.")
            return f"{width}x{height}"
        if not all(self.least <= side <= self.longest for side in pixels_in(size)):
            span = f"from {self.least}x{self.least} to {self.longest}x{self.longest}"
            raise ValueError(f"{size} is not accepted by this model; it accepts sizes {span}.")
        return size


# Edit models take several pictures; the documentation names no largest number.
_INPUTS = 16
_FAMILIES: tuple[tuple[str, int, int], ...] = (
    (r"z-image", 512, 2048),
    (r"qwen-image", 64, 1664),
    (r"flux", 64, 1024),
    (r"stable-diffusion|sdxl|\bsd[-_]?\d", 64, 2048),
)
_EDITS = re.compile(r"edit|kontext", re.IGNORECASE)


def rules_of(model: str) -> Rules:
    """The rules for a model id such as `Tongyi-MAI/Z-Image-Turbo`."""
    for pattern, least, longest in _FAMILIES:
        if re.search(pattern, model, re.IGNORECASE):
            return Rules(least, longest, _INPUTS if _EDITS.search(model) else 0)
    return Rules(64, 2048, _INPUTS)


def wire_param(name: str, value: Scalar) -> object:
    """A parameter in the API's form; raises ValueError with what is accepted. Unknown ones pass as they are."""
    return _PARAMS[name](value) if name in _PARAMS else value


def _steps(value: Scalar) -> Scalar:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100:
        return value
    raise ValueError(f"{value!r} is not accepted; `steps` is a whole number from 1 to 100.")


def _guidance(value: Scalar) -> Scalar:
    if isinstance(value, int | float) and not isinstance(value, bool) and 1.5 <= value <= 20:
        return value
    raise ValueError(
        f"{value!r} is not accepted; `guidance` is a number from 1.5 to 20 (leave it out for Turbo models)."
    )


_LORA = re.compile(r"(?P<repo>[A-Za-z0-9._-]+/[A-Za-z0-9._-]+)(?:=(?P<weight>\d(?:\.\d{1,6})?))?")


def _loras(value: Scalar) -> str | dict[str, float]:
    """One repository, or several with their weights."""
    parts = [part.strip() for part in (value if isinstance(value, str) else "").split(",")]
    found = [_LORA.fullmatch(part) for part in parts]
    if not all(found):
        raise ValueError(
            '`loras` is one repository like "owner/name", or several with weights: "owner/one=0.6, owner/two=0.4".'
        )
    if len(parts) == 1 and found[0] is not None and found[0]["weight"] is None:
        return found[0]["repo"]
    weights = {each["repo"]: float(each["weight"] or math.nan) for each in found if each is not None}
    if len(weights) < len(parts) or len(weights) > MAX_LORAS:
        raise ValueError(
            f"`loras` names {len(parts)} repositories; at most {MAX_LORAS} different ones are taken."
        )
    if not math.isclose(sum(weights.values()), 1.0, abs_tol=1e-6):
        raise ValueError("Each of several `loras` needs a weight, and the weights must add up to 1.")
    return weights


_PARAMS: dict[str, Callable[[Scalar], object]] = {"steps": _steps, "guidance": _guidance, "loras": _loras}
PARAMS = frozenset(_PARAMS)
