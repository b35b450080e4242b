"""The limits of Hunyuan Image 3.0 on every wire: sizes, seeds, prompts, inputs and parameters.

They are checked before money is spent; the sentence of a refusal says what is accepted.
Source: cloud.tencent.com/document/api/1668/124632 and /document/product/1823/135745, as of 2026-11.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from providers.base import Request, Scalar
from providers.shared import checks

MAX_PROMPT_CHARS = 8192
MAX_INPUTS = 3
SEED_RANGE = (1, 2**32 - 1)
SIDES = (512, 2048)  # pixels
MAX_AREA = 1024 * 1024
_SIZES_TEXT = (
    f"sides of {SIDES[0]} to {SIDES[1]} and at most {MAX_AREA} pixels, "
    'such as "1024x1024", or a ratio from 1:4 to 4:1, such as "16:9"'
)
_RATIO_MOST = 99  # larger numbers around a colon are pixels: Tencent writes sizes so
_INPUT_TYPES = frozenset(f"image/{name}" for name in ("jpeg", "jpg", "png", "bmp", "tiff", "webp"))
_MAX_FOOTNOTE_CHARS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits of one wire. `max_input_bytes` is for one input picture, before it is encoded."""

    params: frozenset[str]
    max_input_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A checked request in the terms that all wires share. None stands for the provider's default."""

    prompt: str
    size: tuple[int, int] | None
    seed: int | None
    revise: bool | None  # let the provider rewrite the prompt; costs about 20 s
    logo_add: bool | None  # a visible mark of a generated picture
    footnote: str | None


def wanted(request: Request, rules: Rules, defaults: Mapping[str, Scalar]) -> Wanted:
    """`request` in the wire's terms, with the account's `defaults` for parameters that the job omits.

    Raises ProviderError `invalid_request`, whose `field` names the job's field.
    """
    checks.prompts(request, max_chars=MAX_PROMPT_CHARS, has_negative=False)
    checks.seed(request.seed, SEED_RANGE)
    checks.inputs(request, max_inputs=MAX_INPUTS, max_bytes=rules.max_input_bytes, content_types=_INPUT_TYPES)
    checks.params(request, rules.params, {})
    return Wanted(
        prompt=request.prompt,
        size=_size(request),
        seed=request.seed,
        revise=_revise(request, defaults),
        logo_add=_flag(request.params, defaults, "logo_add"),
        footnote=_footnote(request.params),
    )


def _size(request: Request) -> tuple[int, int] | None:
    """From `size`, or from `params.resolution`: the name that Tencent and its older clients use."""
    given = {"size": request.size, "params.resolution": request.params.get("resolution")}
    found = {field: _pixels(field, str(text)) for field, text in given.items() if text is not None}
    if len(set(found.values())) > 1:
        raise checks.invalid(
            "params.resolution",
            f"`size` says {request.size} and `params.resolution` something else: keep one.",
        )
    return next(iter(found.values()), None)


def _pixels(field: str, text: str) -> tuple[int, int]:
    parts = re.fullmatch(r"([1-9]\d{0,4})([x:])([1-9]\d{0,4})", text, re.ASCII)
    if parts is None:
        raise checks.invalid(field, f"{text!r} is not a size; hunyuan takes {_SIZES_TEXT}.")
    width, height = int(parts[1]), int(parts[3])
    if parts[2] == ":" and max(width, height) <= _RATIO_MOST:
        width, height = _largest(width, height)
    if not SIDES[0] <= min(width, height) <= max(width, height) <= SIDES[1] or width * height > MAX_AREA:
        raise checks.invalid(field, f"{text} is not accepted; hunyuan takes {_SIZES_TEXT}.")
    return width, height


def _largest(width: int, height: int) -> tuple[int, int]:
    """The largest sides of about this ratio: multiples of 16 within the area."""
    scale = math.sqrt(MAX_AREA / (width * height))
    return _floor_16(width * scale), _floor_16(height * scale)


def _floor_16(side: float) -> int:
    return int(side + 1e-6) // 16 * 16  # a root that misses a whole number by a rounding error still is one


def _revise(request: Request, defaults: Mapping[str, Scalar]) -> bool | None:
    # The provider ignores the seed if it rewrites the prompt, and it rewrites the prompt by default.
    if request.seed is None:
        return _flag(request.params, defaults, "revise")
    if _flag(request.params, {}, "revise"):
        raise checks.invalid(
            "params.revise", "hunyuan ignores the seed when it rewrites the prompt: leave out one of the two."
        )
    return False


def _flag(params: Mapping[str, Scalar], defaults: Mapping[str, Scalar], name: str) -> bool | None:
    value = params.get(name, defaults.get(name))
    if value is None:
        return None
    if value not in (0, 1):
        raise checks.invalid(
            f"params.{name}", f"{value!r} is not a value of {name}; it accepts true and false."
        )
    return bool(value)


def _footnote(params: Mapping[str, Scalar]) -> str | None:
    text = params.get("footnote")
    if text is None:
        return None
    if not isinstance(text, str) or not 1 <= len(text) <= _MAX_FOOTNOTE_CHARS:
        raise checks.invalid(
            "params.footnote", f"A footnote is a text of 1 to {_MAX_FOOTNOTE_CHARS} characters."
        )
    return text
