"""Reads the sizes of jobs, and finds the pixels for a ratio."""

from __future__ import annotations

import math
import re

ONE_MEGAPIXEL = 1024 * 1024
_STEP = 16  # diffusion models work on blocks of pixels


def ratio_in(size: str) -> tuple[int, int] | None:
    """The sides of a ratio such as 16:9; None if `size` is none. Raises ValueError for a side of 0."""
    found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", size)
    if found is None:
        return None
    if not int(found[1]) or not int(found[2]):
        raise ValueError(f"{size} is not a ratio.")
    return int(found[1]), int(found[2])


def pixels_in(size: str) -> tuple[int, int]:
    """The sides of a size such as 1024x768; raises ValueError for anything else."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if found is None or not int(found[1]) or not int(found[2]):
        raise ValueError(f'{size!r} is not a size; write it as "1024x1024" or as a ratio like "16:9".')
    return int(found[1]), int(found[2])


def near_one_megapixel(width: int, height: int, *, longest: int | None = None) -> tuple[int, int]:
    """Sides of about this ratio: multiples of 16, about one megapixel, or less if a side would exceed `longest`."""
    scale = math.sqrt(ONE_MEGAPIXEL / (width * height))
    if longest is not None:
        scale = min(scale, longest / max(width, height))
    stepped = [max(_STEP, round(side * scale / _STEP) * _STEP) for side in (width, height)]
    return stepped[0], stepped[1]
