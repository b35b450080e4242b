"""Check, convert and shrink pictures.

Bytes from outside are not trusted. Their type is read from the bytes, and their size is capped before they are decoded.
Then they are decoded in full, which finds a truncated file. A lack of this machine is no fault of a picture, and is
raised as it is.

Pure functions that take milliseconds to tenths of a second: call them in a thread.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

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
THUMBNAIL_QUALITY: Final = 80

_FORMATS: Final = ("PNG", "JPEG", "WEBP")

# Pillow would load these at the first picture, and could not without a free descriptor: good pictures would seem bad.
_LOADED: Final = (JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
Image.preinit()


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


def in_format(data: bytes, output_format: str | None, quality: int | None) -> tuple[bytes, ImageFacts]:
    """The picture as png, jpeg or webp, and its facts. Raises BadImage.

    Without `output_format`, or in that format already, its bytes stay as they are. It is decoded once. `quality`
    (1..100) applies to a new jpeg or webp.
    """
    with _opened(data, MAX_PIXELS) as image:
        if output_format in (None, _format(image)):
            return data, _facts(data, image.size, _format(image))
        plain = _plain(image)
        encoded = _encoded(plain, output_format, quality or DEFAULT_QUALITY)
        return encoded, _facts(encoded, plain.size, output_format)


def thumbnail(data: bytes, side: int = 256) -> bytes:
    """A WebP of at most `side` pixels a side, in the picture's proportions. Raises BadImage."""
    # A JPEG is decoded at a fraction of its size, which takes a fraction of the time.
    with _opened(data, MAX_PIXELS, draft_side=2 * side) as image:
        small = _plain(image)
        small.thumbnail((side, side))
        return _encoded(small, "webp", THUMBNAIL_QUALITY)


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
    """The picture upright, in colours that every format has: a new file loses the notes on both."""
    with suppress(Exception):  # the orientation note may be broken in any way; the picture is not
        image = ImageOps.exif_transpose(image)
    if image.mode == "CMYK":
        image = image.convert("RGB")
        image.info.pop("icc_profile", None)  # this profile describes inks
    elif image.mode.startswith("I"):
        # Sixteen bits of grey; a conversion alone would cut them off at 255.
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    return image


def _encoded(image: Image.Image, output_format: str, quality: int) -> bytes:
    target = io.BytesIO()
    if output_format == "png":
        image.save(target, "PNG")
        return target.getvalue()
    if output_format == "jpeg" and image.mode not in ("RGB", "L"):
        # JPEG has no transparency; product pictures stand on white.
        flat = Image.new("RGB", image.size, "white")
        rgba = image.convert("RGBA")
        flat.paste(rgba, mask=rgba.getchannel("A"))
        image = flat
    image.save(target, output_format.upper(), quality=quality)
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
