"""The contact sheet shows every item in its place or the reason why it is missing, and is the same each time."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from daemon.demo.contact_sheet import CAPTION, COLUMNS, GAP, HEADER, MARGIN, SIDE, Tile, contact_sheet

RED, BLUE = (200, 30, 30), (30, 30, 200)


def picture(
    colour: tuple[int, int, int] = RED, size: tuple[int, int] = (256, 256), kind: str = "PNG"
) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, kind, quality=95)
    return target.getvalue()


def tile(number: int, colour: tuple[int, int, int] = RED) -> Tile:
    return Tile(f"sku-{number:03d}", "Red leather handbag", picture(colour))


def refused(reason: str = "Your request was rejected by the safety system.") -> Tile:
    return Tile("sku-017", "Green paper replica of a banknote", None, reason)


def sheet(*tiles: Tile, title: str = "41 products", line: str = "40 pictures in 19.6 s") -> Image.Image:
    image = Image.open(io.BytesIO(contact_sheet(tiles, title=title, line=line)))
    image.load()
    return image


def cell(image: Image.Image, number: int) -> Image.Image:
    left = MARGIN + number % COLUMNS * (SIDE + GAP)
    top = MARGIN + HEADER + number // COLUMNS * (SIDE + CAPTION + GAP)
    return image.crop((left, top, left + SIDE, top + SIDE))


def caption(image: Image.Image, number: int) -> Image.Image:
    left = MARGIN + number % COLUMNS * (SIDE + GAP)
    top = MARGIN + HEADER + SIDE + number // COLUMNS * (SIDE + CAPTION + GAP)
    return image.crop((left, top, left + SIDE, top + CAPTION))


def middle(image: Image.Image) -> tuple[int, ...]:
    colour = image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(colour, tuple)
    return colour


def test_the_sheet_is_a_png_that_fits_a_page() -> None:
    data = contact_sheet([tile(number) for number in range(41)], title="41 products", line="40 pictures")
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "PNG"
    assert image.width <= 1600
    assert len(data) < 600_000


@pytest.mark.parametrize(("tiles", "rows"), [(0, 1), (1, 1), (7, 1), (8, 2), (41, 6), (42, 6)])
def test_the_sheet_grows_by_rows(tiles: int, rows: int) -> None:
    one = sheet().height
    assert sheet(*[tile(number) for number in range(tiles)]).height == one + (rows - 1) * (
        SIDE + CAPTION + GAP
    )


def test_every_item_is_in_its_place() -> None:
    image = sheet(*[tile(number, BLUE if number == 9 else RED) for number in range(11)])
    assert [middle(cell(image, number)) for number in range(11)] == [*[RED] * 9, BLUE, RED]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(1536, 1024), (1024, 1536), (40, 40)])
def test_every_format_and_shape_is_shown_whole(kind: str, size: tuple[int, int]) -> None:
    shown = cell(sheet(Tile("a", "b", picture(RED, size, kind))), 0)
    scale = min(1, SIDE / max(size))
    bottom_left = shown.getpixel((round(size[0] * scale) // 2, SIDE - round(size[1] * scale) // 2))
    assert isinstance(bottom_left, tuple)
    assert all(abs(is_ - was) <= 4 for is_, was in zip(bottom_left, RED, strict=True))
    if size[0] > size[1]:
        assert shown.getpixel((SIDE // 2, 2)) == image_paper()


def image_paper() -> object:
    return sheet().getpixel((0, 0))


def test_the_same_tiles_give_the_same_bytes() -> None:
    tiles = [tile(1), refused(), tile(2, BLUE)]
    first, second = (contact_sheet(tiles, title="t", line="l") for _ in range(2))
    assert first == second


def test_a_refused_item_is_a_muted_tile_with_its_reason() -> None:
    image = sheet(tile(1), refused(), refused("It costs too much."))
    muted = cell(image, 1)
    assert middle(cell(image, 0)) == RED
    assert _most(muted, "HSV", 1) < 60  # no colour
    assert 90 < _least(muted, "L", 0) < _most(muted, "L", 0)  # something to read, without a strong contrast
    assert muted.tobytes() != cell(image, 2).tobytes()
    assert caption(image, 1).tobytes() == caption(image, 2).tobytes()


def _most(image: Image.Image, mode: str, band: int) -> float:
    return max(
        level for level, pixels in enumerate(image.convert(mode).getchannel(band).histogram()) if pixels
    )


def _least(image: Image.Image, mode: str, band: int) -> float:
    return min(
        level for level, pixels in enumerate(image.convert(mode).getchannel(band).histogram()) if pixels
    )


def test_texts_that_are_too_long_stay_in_their_cell() -> None:
    long = Tile("sku-" + "9" * 80, "Handbag " * 40, None, "reason " * 200 + "x" * 400)
    image = sheet(tile(1), long, tile(2), title="41 products, one batch", line="pictures " * 200)
    plain = sheet(tile(1), refused(), tile(2), title="41 products, one batch", line="pictures " * 200)
    for number in (0, 2):
        assert cell(image, number).tobytes() == cell(plain, number).tobytes()
        assert caption(image, number).tobytes() == caption(plain, number).tobytes()
    right = image.crop((image.width - MARGIN + 1, 0, image.width, image.height))
    assert len(right.getcolors() or []) == 1


def test_the_header_shows_the_title_and_the_line() -> None:
    headers = {
        sheet(tile(1), title=title, line=line).crop((0, 0, 1500, MARGIN + HEADER)).tobytes()
        for title, line in (("a", "x"), ("b", "x"), ("a", "y"))
    }
    assert len(headers) == 3
