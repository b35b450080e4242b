"""Pictures are recognised by their bytes, measured before they are decoded, and refused with a sentence."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import zlib
from typing import Any

import pytest
from PIL import Image, ImageChops, PngImagePlugin

from daemon.storage.imaging import (
    EXTENSIONS,
    MAX_PIXELS,
    NICE,
    BadImage,
    Checked,
    in_format,
    in_picture_thread,
    inspect_image,
    thumbnail,
)

FORMATS = ("PNG", "JPEG", "WEBP")
FIRST_PICTURES = """
import io, sys
from daemon.storage import imaging
from PIL import Image
loaded, kept = set(sys.modules), []
note = Image.Exif()
note[0x0112] = 6
for kind in ("PNG", "JPEG", "WEBP", "MPO"):
    target = io.BytesIO()
    more = {"save_all": True, "append_images": [Image.new("RGB", (6, 4))]} if kind == "MPO" else {}
    Image.new("RGB", (6, 4)).save(target, kind, exif=note, **more)
    for wished in (None, "png", "jpeg", "webp"):
        imaging.in_format(target.getvalue(), wished, None, with_thumbnail=True)
    imaging.thumbnail(target.getvalue())
print(sorted(set(sys.modules) - loaded))
"""


def encoded(kind: str, size: tuple[int, int] = (60, 40), mode: str = "RGB", **how: Any) -> bytes:
    target = io.BytesIO()
    picture = Image.effect_noise(size, 60).convert(mode)
    picture.save(target, kind, **how)
    return target.getvalue()


def convert_image(data: bytes, output_format: str, quality: int | None) -> bytes:
    return in_format(data, output_format, quality).data


def small_of(data: bytes, output_format: str | None = None) -> bytes:
    """The thumbnail that is made where a picture is checked."""
    small = in_format(data, output_format, None, with_thumbnail=True).thumbnail
    assert isinstance(small, bytes), small
    return small


def decoded(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def bomb(side: int) -> bytes:
    """A PNG of one bit a pixel that is all white: some 100 bytes for each million pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def reason(data: bytes) -> str:
    """Why these bytes are refused, whatever is to become of them."""
    with pytest.raises(BadImage) as caught:
        inspect_image(data)
    with pytest.raises(BadImage) as caught_too:
        in_format(data, None, None, with_thumbnail=True)
    assert str(caught_too.value) == str(caught.value)
    return str(caught.value)


# Recognised and measured


@pytest.mark.parametrize("kind", FORMATS)
def test_the_facts_are_those_of_the_bytes(kind: str) -> None:
    data = encoded(kind)
    facts = inspect_image(data)
    assert (facts.width, facts.height, facts.format) == (60, 40, kind.lower())
    assert (facts.bytes, facts.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert facts.content_type == f"image/{kind.lower()}"


def test_a_jpeg_has_the_extension_that_people_expect() -> None:
    assert EXTENSIONS[inspect_image(encoded("JPEG")).format] == "jpg"


def test_a_jpeg_that_holds_a_second_picture_is_a_jpeg() -> None:
    data = encoded("MPO", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    facts = inspect_image(data)
    assert (facts.format, facts.content_type, facts.width) == ("jpeg", "image/jpeg", 60)


# Refused


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty."),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "it is SVG; only PNG, JPEG and WebP pictures are kept.",
        ),
        (b"<?xml version='1.0'?><svg/>", "it is XML or SVG;"),
        (encoded("GIF", mode="P"), "it is GIF;"),
        (b"\n <!doctype html><title>Sign in</title>", "it is HTML;"),
        (b'{"error": "no"}', "it is JSON;"),
        (encoded("TIFF"), "no PNG, JPEG or WebP"),
        (encoded("BMP"), "no PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n", "no PNG, JPEG or WebP"),
        (bytes(1000), "no PNG, JPEG or WebP"),
    ],
    ids=["empty", "svg", "xml", "gif", "html", "json", "tiff", "bmp", "signature only", "zeros"],
)
def test_other_bytes_are_refused_with_their_kind(data: bytes, says: str) -> None:
    assert says in reason(data)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused(kind: str, share: float) -> None:
    data = encoded(kind, (200, 200))
    assert (
        "damaged or truncated" in (reported := reason(data[: int(len(data) * share)]))
        or "no PNG, JPEG" in reported
    )


@pytest.mark.parametrize(("side", "says"), [(13_500, "far too large"), (7_200, "at most 50 megapixels")])
def test_a_header_bomb_is_refused_before_it_is_decoded(
    side: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bomb(side)
    assert len(data) < 30_000
    assert side * side > MAX_PIXELS

    def decode(_: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)
    for look in (inspect_image, thumbnail, lambda data: convert_image(data, "webp", None)):
        with pytest.raises(BadImage, match=says):
            look(data)


def test_a_picture_at_the_limit_is_taken_and_one_above_it_is_not() -> None:
    data = encoded("PNG", (10, 10))
    assert inspect_image(data, max_pixels=100).width == 10
    with pytest.raises(BadImage, match="10 x 10 pixels"):
        inspect_image(data, max_pixels=99)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about broken notes
@pytest.mark.parametrize("kind", FORMATS)
def test_any_damage_of_a_file_is_a_refusal_and_no_other_error(kind: str) -> None:
    dice = random.Random(kind)
    note = Image.Exif()
    note[0x0112] = 6
    whole = encoded(kind, (24, 24), exif=note)
    refusals = []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            convert_image(bytes(data), "png", None)
        except BadImage:
            refusals.append(reason(bytes(data)))
        else:
            small_of(bytes(data))
            small_of(bytes(data), "png")
    assert refusals
    assert all(refusal.endswith(".") for refusal in refusals)


# A machine without descriptors


def test_nothing_is_loaded_at_the_first_picture() -> None:
    """Without a descriptor nothing can be loaded, and a good picture would seem to be of an unknown kind."""
    ran = subprocess.run([sys.executable, "-c", FIRST_PICTURES], input=b"", capture_output=True, check=False)
    assert (ran.stdout, ran.stderr) == (b"[]\n", b"")


@pytest.mark.parametrize("step", ["open", "load"])
def test_a_lack_of_this_machine_is_no_fault_of_a_picture(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    owner: object = Image if step == "open" else PngImagePlugin.PngImageFile
    monkeypatch.setattr(owner, step, lacks)
    with pytest.raises(OSError, match="Too many open files"):
        inspect_image(encoded("PNG"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
async def test_pictures_give_way_to_the_event_loop() -> None:
    ours = os.nice(0)
    assert await in_picture_thread(os.nice, 0) == min(ours + NICE, 19)
    assert os.nice(0) == ours


# Converted


@pytest.mark.parametrize("kind", FORMATS)
def test_without_a_wished_format_the_delivered_bytes_stay(kind: str) -> None:
    data = encoded(kind)
    assert in_format(data, None, 30) == Checked(data, inspect_image(data), None)


@pytest.mark.parametrize("target", [None, "png", "jpeg", "webp"])
def test_a_picture_is_decoded_once_whatever_it_becomes(
    target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, decodings = encoded("JPEG"), []
    opened = Image.open

    def counted(*given: Any, **named: Any) -> Image.Image:
        decodings.append(target)
        return opened(*given, **named)

    monkeypatch.setattr(Image, "open", counted)
    checked = in_format(data, target, None, with_thumbnail=True)
    assert len(decodings) == 1
    monkeypatch.undo()
    assert checked.facts == inspect_image(checked.data)
    assert checked.thumbnail


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("target", ["png", "jpeg", "webp"])
def test_every_format_becomes_every_other(kind: str, target: str) -> None:
    facts = inspect_image(convert_image(encoded(kind), target, None))
    assert (facts.format, facts.width, facts.height) == (target, 60, 40)


@pytest.mark.parametrize("target", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "1"),
        ("PNG", "L"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("PNG", "I;16"),
        ("JPEG", "CMYK"),
    ],
)
def test_every_mode_of_a_picture_can_be_converted_and_shrunk(kind: str, mode: str, target: str) -> None:
    data = encoded(kind, mode=mode)
    assert inspect_image(convert_image(data, target, None)).format == target
    assert inspect_image(thumbnail(data, 30)).width == 30
    assert inspect_image(small_of(data, target)).width == 60


def test_a_picture_of_sixteen_bits_keeps_its_brightness() -> None:
    target = io.BytesIO()
    Image.new("I;16", (8, 8), 0x8000).save(target, "PNG")
    grey = decoded(convert_image(target.getvalue(), "jpeg", None)).convert("L").getpixel((4, 4))
    assert isinstance(grey, int)
    assert abs(grey - 128) <= 2


def test_transparency_becomes_white_where_a_format_has_none() -> None:
    target = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(target, "PNG")
    assert decoded(convert_image(target.getvalue(), "jpeg", None)).getpixel((4, 4)) == (255, 255, 255)
    assert decoded(convert_image(target.getvalue(), "webp", None)).getpixel((4, 4))[3] == 0  # type: ignore[index]  # RGBA


def test_a_lower_quality_is_a_smaller_file() -> None:
    data = encoded("PNG", (200, 200))
    assert len(convert_image(data, "jpeg", 20)) < len(convert_image(data, "jpeg", 95))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_picture_is_turned_upright_where_its_orientation_note_is_lost(kind: str) -> None:
    lying = Image.new("RGB", (60, 40), "white")
    lying.paste("black", (0, 0, 60, 20))
    note = Image.Exif()
    note[0x0112] = 6  # turn it a quarter to the right
    target = io.BytesIO()
    lying.save(target, kind, exif=note, quality=95)
    data = target.getvalue()
    converted = (
        convert_image(data, wished, None) for wished in ("png", "jpeg", "webp") if wished != kind.lower()
    )
    small = (small_of(data), small_of(data, "png"), small_of(data, "jpeg"), thumbnail(data, 60))
    for each in (*converted, *small):
        upright = decoded(each).convert("L")
        assert upright.size == (40, 60)
        assert upright.getpixel((35, 30)) < 60  # type: ignore[operator]  # one number a pixel
        assert upright.getpixel((5, 30)) > 200  # type: ignore[operator]  # as above


# Thumbnails


@pytest.mark.parametrize(
    ("size", "small"), [((1536, 1024), (256, 171)), ((1024, 1536), (171, 256)), ((64, 32), (64, 32))]
)
def test_a_thumbnail_keeps_the_proportions_and_never_grows(
    size: tuple[int, int], small: tuple[int, int]
) -> None:
    facts = inspect_image(thumbnail(encoded("PNG", size)))
    assert (facts.format, facts.width, facts.height) == ("webp", *small)


@pytest.mark.parametrize("target", [None, "png", "jpeg", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_thumbnail_made_with_the_check_shows_the_picture_that_is_stored(
    mode: str, target: str | None
) -> None:
    target_file, shades = io.BytesIO(), Image.linear_gradient("L").resize((600, 400))
    picture = Image.merge("RGB", (shades, shades.rotate(180), shades)).convert(mode)
    if mode == "RGBA":
        picture.putalpha(shades)
    picture.save(target_file, "PNG")
    checked = in_format(target_file.getvalue(), target, None, with_thumbnail=True)
    assert isinstance(checked.thumbnail, bytes)
    ours, other = (decoded(each).convert("RGBA") for each in (checked.thumbnail, thumbnail(checked.data)))
    assert ours.size == other.size == (256, 171)
    assert max(high for _, high in ImageChops.difference(ours, other).getextrema()) < 24  # type: ignore[misc]  # four bands


def test_a_picture_is_kept_though_its_thumbnail_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "thumbnail", lacks)
    data = encoded("PNG")
    assert in_format(data, None, None, with_thumbnail=True) == Checked(
        data, inspect_image(data), "MemoryError"
    )


def test_the_same_picture_gives_the_same_bytes() -> None:
    data = encoded("PNG")
    assert thumbnail(data) == thumbnail(data)
    assert small_of(data) == small_of(data)
    assert convert_image(data, "jpeg", 80) == convert_image(data, "jpeg", 80)
