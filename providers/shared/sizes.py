"""How jobs write sizes, and the pixels that a ratio stands for."""

from __future__ import annotations

import math
import re

SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
RATIO = re.compile(r"(\d{1,3}):(\d{1,3})")

ONE_MEGAPIXEL = 1024 * 1024
_STEP = 16  # diffusion models work on blocks of pixels


def not_a_size(size: str) -> str:
    """The sentence for what is neither a size nor a ratio."""
    return f'{size!r} is not a size; write it as "1024x1024" or as a ratio like "16:9".'


def near_one_megapixel(width: int, height: int, *, longest: int | None = None) -> tuple[int, int]:
    """A size of about this ratio and one megapixel, or less where a side would exceed `longest`; multiples of 16.

    Raises ValueError for a ratio with a side of 0.
    """
    if not width or not height:
        raise ValueError(f"{width}:{height} is not a ratio.")
    scale = math.sqrt(ONE_MEGAPIXEL / (width * height))
    if longest is not None:
        scale = min(scale, longest / max(width, height))
    return _stepped(width * scale), _stepped(height * scale)


def _stepped(side: float) -> int:
    return max(_STEP, round(side / _STEP) * _STEP)
