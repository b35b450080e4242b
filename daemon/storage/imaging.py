"""Check, convert and shrink pictures.

Bytes from outside are not trusted. Their type is read from the bytes, and their size is capped before they are decoded.
Then they are decoded in full, which finds a truncated file. A lack of this machine is no fault of a picture, and is
raised as it is.

Pure functions that take milliseconds to tenths of a second: call them with `in_picture_thread`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final, TypeVar

from PIL import (
    Image,
    ImageOps,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from providers.lack import lack_of

# A 22 KB PNG can hold 182 megapixels; no known provider makes pictures of more than 20.
MAX_PIXELS: Final = 50_000_000
EXTENSIONS: Final = {"png": "png", "jpeg": "jpg", "webp": "webp"}
DEFAULT_QUALITY: Final = 90
THUMBNAIL_SIDE: Final = 256  # pixels
THUMBNAIL_QUALITY: Final = 80
# More effort makes a file a few percent smaller and takes three times as long.
THUMBNAIL_EFFORT: Final = 1  # WebP's method, 0 to 6
PNG_EFFORT: Final = 1  # zlib's level, 0 to 9

NICE: Final = 10

_FORMATS: Final = ("PNG", "JPEG", "WEBP")

# Pillow would load these at the first picture, and could not without a free descriptor: good pictures would seem bad.
_LOADED: Final = (JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
Image.preinit()


T = TypeVar("T")


class BadImage(Exception):  # noqa: N818 - names the received bytes
    """These bytes are no picture that we accept; the message is a sentence with the reason."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The facts of a picture that has been decoded in full."""

    width: int
    height: int
    format: str  # png, jpeg or webp
    content_type: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Checked:
    """A picture that has been decoded in full, as it is to be stored."""

    data: bytes
    facts: ImageFacts
    thumbnail: bytes | str | None  # a WebP; the reason why it could not be made; None: none was requested


async def in_picture_thread(step: Callable[..., T], *given: Any) -> T:
    """`step(*given)` in one of as many threads as there are cores, which give way to the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), partial(step, *given))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "picture", initializer=_give_way)


def _give_way() -> None:
    if sys.platform == "linux":  # elsewhere it would hold for the whole process
        with suppress(OSError):  # a sandbox may forbid it
            os.nice(NICE)


def decoded_bytes(data: bytes) -> int:
    """The memory that its pixels will take, by its header; 0 for what is no picture or has too many pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                pixels = image.width * image.height
    except Exception:  # whatever is wrong with it is found, and said, when it is decoded
        return 0
    return 4 * pixels if pixels <= MAX_PIXELS else 0


def inspect_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """The facts of a PNG, JPEG or WebP picture. Raises BadImage for anything else, too large or broken."""
    with _opened(data, max_pixels) as image:
        return _facts(data, image.size, _format(image))


def in_format(
    data: bytes, output_format: str | None, quality: int | None, *, with_thumbnail: bool = False
) -> Checked:
    """The picture as png, jpeg or webp, with its thumbnail where one is requested. Raises BadImage.

    Without `output_format`, or in that format already, its bytes stay as they are. It is decoded once. `quality`
    (1..100) applies to a new jpeg or webp.
    """
    with _opened(data, MAX_PIXELS) as opened:
        image, size, kind = opened, opened.size, _format(opened)
        if output_format is not None and output_format != kind:
            image = _plain(opened)
            if output_format == "jpeg":
                image = _opaque(image)
            size, kind = image.size, output_format
            data = _encoded(image, kind, quality or DEFAULT_QUALITY)
        small = _small_or_why(image) if with_thumbnail else None
        return Checked(data, _facts(data, size, kind), small)


def thumbnail(data: bytes, side: int = THUMBNAIL_SIDE) -> bytes:
    """A WebP of at most `side` pixels a side, in the picture's proportions. Raises BadImage."""
    # A JPEG is decoded at a fraction of its size, which takes a fraction of the time.
    with _opened(data, MAX_PIXELS, draft_side=2 * side) as image:
        return _small(image, side)


def _small_or_why(image: Image.Image) -> bytes | str:
    """The thumbnail, or why there is none: only the picture was paid for, and another can be made from it."""
    try:
        return _small(image, THUMBNAIL_SIDE)
    except Exception as error:
        return str(error) or type(error).__name__


def _small(image: Image.Image, side: int) -> bytes:
    """The thumbnail of a picture, which may be changed."""
    small = _plain(image)
    small.thumbnail((side, side))
    return _encoded(small, "webp", THUMBNAIL_QUALITY, method=THUMBNAIL_EFFORT)


def _format(image: Image.Image) -> str:
    # Pillow has another name for a JPEG with a second picture inside (a depth map, a preview).
    return "jpeg" if image.format == "MPO" else str(image.format).lower()


def _facts(data: bytes, size: tuple[int, int], kind: str) -> ImageFacts:
    return ImageFacts(*size, kind, f"image/{kind}", hashlib.sha256(data).hexdigest(), len(data))


@contextmanager
def _opened(data: bytes, max_pixels: int, draft_side: int | None = None) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Pillow only warns between its two own limits; ours is lower and is checked on the header below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        if lack_of(error):
            raise
        raise BadImage(_what_it_is(data, error)) from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise BadImage(
                f"it has {width} x {height} pixels; at most {max_pixels / 1e6:g} megapixels are decoded."
            )
        if draft_side is not None:
            image.draft(None, (draft_side, draft_side))
        try:
            image.load()
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            if lack_of(error):
                raise
            raise BadImage(f"it is a damaged or truncated {image.format} ({error}).") from None
        yield image


def _plain(image: Image.Image) -> Image.Image:
    """The picture upright, in colours that every format has: a new file loses the notes on both.

    It is turned in place. A plain picture stays as it is.
    """
    if image.mode == "CMYK":
        image = image.convert("RGB")
        image.info.pop("icc_profile", None)  # this profile describes inks
    elif image.mode.startswith("I"):
        # Sixteen bits of grey; a conversion alone would cut them off at 255.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    elif image.mode in ("1", "P"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    with suppress(Exception):  # the orientation note may be broken in any way; the picture is not
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _opaque(image: Image.Image) -> Image.Image:
    """A picture without transparency: product pictures stand on white."""
    if image.mode in ("RGB", "L"):
        return image
    flat = Image.new("RGB", image.size, "white")
    rgba = image.convert("RGBA")
    flat.paste(rgba, mask=rgba.getchannel("A"))
    return flat


def _encoded(image: Image.Image, output_format: str, quality: int, **more: int) -> bytes:
    target = io.BytesIO()
    if output_format == "png":
        image.save(target, "PNG", compress_level=PNG_EFFORT)
    else:
        image.save(target, output_format.upper(), quality=quality, **more)
    return target.getvalue()


def _what_it_is(data: bytes, error: Exception) -> str:
    if not data:
        return "it is empty."
    if isinstance(error, Image.DecompressionBombError):
        return "it would be far too large when decoded."
    start = data[:64].lstrip().lower()
    for sign, name in (
        (b"<svg", "SVG"),
        (b"<?xml", "XML or SVG"),
        (b"gif8", "GIF"),
        (b"<", "HTML"),
        (b"{", "JSON"),
    ):
        if start.startswith(sign):
            return f"it is {name}; only PNG, JPEG and WebP pictures are kept."
    return "its bytes are no PNG, JPEG or WebP picture."
