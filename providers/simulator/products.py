"""The things in the simulator's pictures: flat drawings of products, in a box of 100 by 100.

The prompt's words choose the product, so that a mug is a mug; a prompt without a known word gets any.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import ImageDraw

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of one picture."""

    sky: Colour
    ground: Colour
    disc: Colour
    main: Colour
    accent: Colour
    ink: Colour


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws in units of a hundredth of a box whose upper left corner is (left, top), in pixels."""

    draw: ImageDraw.ImageDraw
    left: float
    top: float
    unit: float

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.draw.ellipse(self._points(x0, y0, x1, y1), fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0) -> None:
        self.draw.rounded_rectangle(self._points(x0, y0, x1, y1), radius * self.unit, fill=fill)

    def shape(self, *coordinates: float, fill: Colour) -> None:
        self.draw.polygon(self._points(*coordinates), fill=fill)

    def line(self, *coordinates: float, fill: Colour, width: float = 2) -> None:
        self.draw.line(self._points(*coordinates), fill, max(1, round(width * self.unit)), joint="curve")

    def arc(self, x0: float, y0: float, x1: float, y1: float, angles: tuple[float, float], fill: Colour,
            width: float = 2) -> None:  # fmt: skip
        width_px = max(1, round(width * self.unit))
        self.draw.arc(self._points(x0, y0, x1, y1), *angles, fill=fill, width=width_px)

    def _points(self, *coordinates: float) -> list[float]:
        starts = (self.left, self.top)
        return [starts[index % 2] + value * self.unit for index, value in enumerate(coordinates)]


Product = Callable[[Pen, Palette], None]


def product_for(prompt: str, choice: int) -> Product:
    """The product that the prompt names first, else one that `choice` (any integer) picks."""
    for word in re.findall(r"[a-z]+", prompt.lower()):
        singular = word.removesuffix("s")
        for names, product in _PRODUCTS:
            if word in names or singular in names:
                return product
    return _PRODUCTS[choice % len(_PRODUCTS)][1]


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1, towards white above it."""
    if factor <= 1:
        return tuple(round(part * factor) for part in colour)  # type: ignore[return-value]  # three stay three
    return mix(colour, (255, 255, 255), factor - 1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of `other` in `one`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _mug(pen: Pen, palette: Palette) -> None:
    pen.arc(58, 38, 92, 76, (0, 360), palette.main, 6)
    pen.box(20, 26, 72, 90, palette.main, 8)
    pen.box(20, 26, 33, 90, shade(palette.main, 1.25), 6)
    pen.box(20, 50, 72, 60, palette.accent)
    pen.ellipse(20, 20, 72, 33, shade(palette.main, 0.8))
    pen.ellipse(25, 22, 67, 31, shade(palette.ink, 1.1))
    for x in (36, 50):
        pen.arc(x, -2, x + 8, 9, (90, 270), shade(palette.disc, 1.4), 2)
        pen.arc(x, 7, x + 8, 17, (270, 90), shade(palette.disc, 1.4), 2)


def _bottle(pen: Pen, palette: Palette) -> None:
    pen.box(43, 2, 57, 16, palette.accent, 3)
    pen.box(45, 14, 55, 34, shade(palette.main, 0.9))
    pen.box(32, 28, 68, 92, palette.main, 13)
    pen.box(36, 34, 41, 86, shade(palette.main, 1.4), 2.5)
    pen.box(32, 50, 68, 74, shade(palette.disc, 1.5))
    pen.box(40, 56, 60, 59, palette.ink)
    pen.box(44, 64, 56, 66, palette.accent)


def _vase(pen: Pen, palette: Palette) -> None:
    for x, y in ((34, 6), (50, -2), (66, 8)):
        pen.line(50, 48, x, y + 6, fill=(74, 124, 89), width=1.6)
        for dx, dy in ((-5, 0), (5, 0), (0, -5), (0, 5)):
            pen.ellipse(x + dx - 4, y + dy - 4, x + dx + 4, y + dy + 4, palette.accent)
        pen.ellipse(x - 3, y - 3, x + 3, y + 3, shade(palette.accent, 1.6))
    pen.ellipse(28, 48, 72, 94, palette.main)
    pen.box(41, 36, 59, 58, palette.main)
    pen.ellipse(36, 33, 64, 41, shade(palette.main, 0.75))
    pen.arc(33, 54, 60, 88, (130, 220), shade(palette.main, 1.4), 3)
    pen.box(30, 68, 70, 72, shade(palette.main, 0.82))


def _lamp(pen: Pen, palette: Palette) -> None:
    pen.shape(34, 8, 66, 8, 84, 50, 16, 50, fill=palette.main)
    pen.shape(34, 8, 44, 8, 38, 50, 16, 50, fill=shade(palette.main, 1.25))
    pen.ellipse(38, 44, 62, 58, shade(palette.accent, 1.5))
    pen.box(47, 54, 53, 86, palette.ink)
    pen.box(30, 85, 70, 91, palette.ink, 3)
    pen.line(60, 52, 60, 66, fill=palette.accent, width=1.2)
    pen.ellipse(58.4, 65, 61.6, 68.4, palette.accent)


def _headphones(pen: Pen, palette: Palette) -> None:
    pen.arc(16, 10, 84, 92, (180, 360), palette.ink, 7)
    pen.arc(22, 16, 78, 86, (188, 352), shade(palette.main, 0.9), 3)
    for x0, inner in ((10, 24), (72, 70)):
        pen.box(x0, 48, x0 + 18, 88, palette.main, 9)
        pen.box(inner, 52, inner + 6, 84, palette.accent, 3)
        pen.ellipse(x0 + 5, 60, x0 + 12, 76, shade(palette.main, 1.35))


def _shoe(pen: Pen, palette: Palette) -> None:
    pen.shape(10, 40, 32, 44, 44, 34, 62, 56, 88, 66, 93, 80, 8, 80, fill=palette.main)
    pen.ellipse(76, 63, 95, 89, palette.main)
    pen.shape(10, 40, 24, 42, 28, 80, 8, 80, fill=palette.accent)
    pen.shape(32, 62, 56, 76, 48, 80, 28, 72, fill=shade(palette.disc, 1.5))
    for step in range(3):
        x, y = 44 + step * 7, 41 + step * 7.5
        pen.line(x, y, x + 9, y - 3, fill=shade(palette.disc, 1.7), width=2.4)
    pen.box(6, 78, 96, 90, shade(palette.disc, 1.7), 5)
    pen.box(6, 86, 96, 90, palette.ink, 2)


def _watch(pen: Pen, palette: Palette) -> None:
    pen.box(37, 0, 63, 30, palette.accent, 4)
    pen.box(37, 66, 63, 97, palette.accent, 4)
    for y in (76, 82, 88):
        pen.ellipse(48.5, y, 51.5, y + 3, shade(palette.accent, 0.6))
    pen.box(74, 44, 80, 52, palette.ink, 2)
    pen.ellipse(23, 21, 77, 75, palette.ink)
    pen.ellipse(27.5, 25.5, 72.5, 70.5, shade(palette.disc, 1.7))
    for x, y in ((50, 30), (50, 66), (32, 48), (68, 48)):
        pen.ellipse(x - 1.6, y - 1.6, x + 1.6, y + 1.6, palette.ink)
    pen.line(50, 48, 50, 34, fill=palette.ink, width=2.4)
    pen.line(50, 48, 61, 54, fill=palette.main, width=2.4)
    pen.ellipse(47.5, 45.5, 52.5, 50.5, palette.main)


def _bag(pen: Pen, palette: Palette) -> None:
    pen.arc(34, 4, 66, 46, (180, 360), palette.ink, 4)
    pen.shape(20, 30, 80, 30, 88, 90, 12, 90, fill=palette.main)
    pen.shape(20, 30, 32, 30, 28, 90, 12, 90, fill=shade(palette.main, 1.2))
    pen.box(16, 52, 84, 58, shade(palette.main, 0.85))
    pen.box(43, 49, 57, 63, palette.accent, 3)
    pen.ellipse(47.5, 53.5, 52.5, 58.5, palette.ink)


def _chair(pen: Pen, palette: Palette) -> None:
    for x0, x1 in ((32, 24), (68, 76)):
        pen.line(x0, 62, x1, 93, fill=palette.ink, width=3.4)
    pen.box(26, 8, 74, 56, palette.main, 12)
    pen.box(32, 14, 68, 48, shade(palette.main, 1.2), 9)
    pen.box(14, 40, 27, 68, palette.accent, 6)
    pen.box(73, 40, 86, 68, palette.accent, 6)
    pen.box(20, 54, 80, 70, shade(palette.main, 0.85), 7)


def _perfume(pen: Pen, palette: Palette) -> None:
    pen.box(40, 4, 60, 24, palette.ink, 3)
    pen.box(44, 22, 56, 34, shade(palette.accent, 1.2))
    pen.box(20, 32, 80, 92, shade(palette.main, 1.3), 9)
    pen.box(26, 50, 74, 86, palette.main, 6)
    pen.box(36, 60, 64, 76, shade(palette.disc, 1.7), 1)
    pen.box(42, 67, 58, 69, palette.ink)
    pen.box(25, 38, 29, 84, shade(palette.main, 1.7), 2)


def _plant(pen: Pen, palette: Palette) -> None:
    leaf, light = (62, 122, 92), (104, 166, 122)
    for x, y, colour in ((22, 20, leaf), (78, 22, leaf), (36, 4, light), (64, 6, light), (50, -4, leaf)):
        pen.line(50, 62, x, y + 8, fill=leaf, width=1.6)
        pen.ellipse(x - 9, y - 4, x + 9, y + 24, colour)
        pen.line(x, y, x, y + 20, fill=shade(colour, 0.8), width=1)
    pen.shape(30, 60, 70, 60, 64, 92, 36, 92, fill=palette.main)
    pen.box(26, 54, 74, 65, shade(palette.main, 1.15), 3)
    pen.box(33, 74, 67, 78, palette.accent)


def _candle(pen: Pen, palette: Palette) -> None:
    pen.ellipse(43, 4, 57, 30, palette.accent)
    pen.ellipse(46.5, 14, 53.5, 30, shade(palette.accent, 1.7))
    pen.line(50, 28, 50, 40, fill=palette.ink, width=1.6)
    pen.box(26, 38, 74, 92, palette.main, 6)
    pen.ellipse(26, 33, 74, 46, shade(palette.main, 1.35))
    pen.box(34, 56, 66, 80, shade(palette.disc, 1.6), 2)
    pen.box(41, 63, 59, 65.5, palette.ink)
    pen.box(44, 70, 56, 72, palette.accent)


_PRODUCTS: tuple[tuple[frozenset[str], Product], ...] = (
    (frozenset({"mug", "cup", "teacup", "coffee", "tea", "espresso"}), _mug),
    (frozenset({"bottle", "flask", "wine", "oil", "juice", "shampoo"}), _bottle),
    (frozenset({"vase", "flower", "bouquet"}), _vase),
    (frozenset({"lamp", "light", "lantern", "lampshade"}), _lamp),
    (frozenset({"headphone", "headset", "earphone", "speaker", "audio"}), _headphones),
    (frozenset({"shoe", "sneaker", "boot", "trainer", "sandal"}), _shoe),
    (frozenset({"watch", "clock", "wristwatch", "chronograph"}), _watch),
    (frozenset({"bag", "handbag", "backpack", "tote", "purse", "satchel"}), _bag),
    (frozenset({"chair", "armchair", "sofa", "furniture", "stool"}), _chair),
    (frozenset({"perfume", "fragrance", "cologne", "serum", "cream", "lotion"}), _perfume),
    (frozenset({"plant", "pot", "planter", "succulent", "garden"}), _plant),
    (frozenset({"candle", "wax"}), _candle),
)
