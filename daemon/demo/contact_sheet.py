"""All pictures of a batch on one sheet: small previews with captions, and a muted tile for each refused item.

Pure: the same tiles give the same bytes. The font is the one inside Pillow.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

COLUMNS: Final = 7
SIDE: Final = 184  # of a preview, px
GAP: Final = 24
MARGIN: Final = 56
HEADER: Final = 150
CAPTION: Final = 74

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER: Final = (251, 250, 247)
_INK: Final = (38, 40, 48)
_QUIET: Final = (132, 132, 138)
_RULE: Final = (226, 223, 215)
_MUTED: Final = (238, 236, 230)
_SIGN: Final = (190, 186, 176)
_ROUND: Final = 12
_LONGEST: Final = 200  # characters that are measured; no line holds so many
_SMOOTH: Final = 4  # corners are drawn so much larger and shrunk


@dataclass(frozen=True, slots=True)
class Tile:
    """One item: its picture (PNG, JPEG or WebP), or the reason in words why there is none."""

    id: str
    title: str
    picture: bytes | None = None
    reason: str = ""


def contact_sheet(tiles: Sequence[Tile], *, title: str, line: str) -> bytes:
    """A PNG of 1544 px width with the tiles in their order under a title and a line that sums them up."""
    rows = max(1, -(-len(tiles) // COLUMNS))
    width = 2 * MARGIN + COLUMNS * SIDE + (COLUMNS - 1) * GAP
    height = MARGIN + HEADER + rows * (SIDE + CAPTION + GAP) - GAP + MARGIN // 2
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _header(pen, width, title, line)
    for number, tile in enumerate(tiles):
        left = MARGIN + number % COLUMNS * (SIDE + GAP)
        top = MARGIN + HEADER + number // COLUMNS * (SIDE + CAPTION + GAP)
        preview = _refused(tile.reason) if tile.picture is None else _preview(tile.picture)
        sheet.paste(preview, (left, top + SIDE - preview.height), _rounded(preview.size))
        _caption(pen, left, top + SIDE, tile)
    return _encoded(sheet)


def _header(pen: ImageDraw.ImageDraw, width: int, title: str, line: str) -> None:
    pen.text((MARGIN, MARGIN + 34), title, fill=_INK, font=_font(46), anchor="ls")
    pen.text((width - MARGIN, MARGIN + 34), "pixmill", fill=_SIGN, font=_font(30), anchor="rs")
    room = width - 2 * MARGIN
    pen.text((MARGIN, MARGIN + 78), _cut(line, _font(21), room), fill=_QUIET, font=_font(21), anchor="ls")
    pen.line((MARGIN, MARGIN + 112, width - MARGIN, MARGIN + 112), _RULE, 2)


def _preview(data: bytes) -> Image.Image:
    """The whole picture, as large as fits into a tile."""
    with Image.open(io.BytesIO(data)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def _refused(reason: str) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE), _MUTED)
    tile.paste(_no_entry(60), (SIDE // 2 - 30, 22))
    pen = ImageDraw.Draw(tile)
    for number, text in enumerate(_wrapped(reason, _font(12), SIDE - 16, 5)):
        pen.text((SIDE / 2, 106 + number * 16), text, fill=_QUIET, font=_font(12), anchor="ms")
    return tile


def _no_entry(side: int) -> Image.Image:
    large = side * _SMOOTH
    sign = Image.new("RGB", (large, large), _MUTED)
    pen = ImageDraw.Draw(sign)
    pen.ellipse((4, 4, large - 5, large - 5), outline=_SIGN, width=large // 11)
    pen.line((large * 0.2, large * 0.8, large * 0.8, large * 0.2), _SIGN, large // 11)
    return sign.resize((side, side), Image.Resampling.LANCZOS)


def _caption(pen: ImageDraw.ImageDraw, left: int, top: int, tile: Tile) -> None:
    pen.text((left, top + 22), _cut(tile.id, _font(13), SIDE), fill=_QUIET, font=_font(13), anchor="ls")
    colour = _INK if tile.picture is not None else _QUIET
    for number, text in enumerate(_wrapped(tile.title, _font(16), SIDE, 2)):
        pen.text((left, top + 42 + number * 20), text, fill=colour, font=_font(16), anchor="ls")


def _cut(text: str, font: _Font, room_px: int) -> str:
    """The beginning of `text` that fits, with dots if some is left over."""
    text, whole = text[:_LONGEST], text
    if text == whole and font.getlength(text) <= room_px:
        return text
    while text and font.getlength(f"{text}…") > room_px:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _wrapped(text: str, font: _Font, room_px: int, limit: int) -> list[str]:
    """`text` in at most `limit` lines, broken between words; the last one is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= room_px or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > limit:
        lines[limit - 1 :] = [" ".join(lines[limit - 1 :])]
    return [_cut(line, font, room_px) for line in lines]


def _encoded(sheet: Image.Image) -> bytes:
    # Not quantised: 256 colours would draw stripes into the gradients.
    target = io.BytesIO()
    sheet.save(target, "PNG", optimize=True)
    return target.getvalue()


@lru_cache(maxsize=8)
def _rounded(size: tuple[int, int]) -> Image.Image:
    width, height = size[0] * _SMOOTH, size[1] * _SMOOTH
    large = Image.new("L", (width, height), 0)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, width - 1, height - 1), _ROUND * _SMOOTH, fill=255)
    return large.resize(size, Image.Resampling.LANCZOS)


@lru_cache(maxsize=8)
def _font(size_px: int) -> _Font:
    return ImageFont.load_default(size_px)
