"""The picture of the page in the docs is the page as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat
from playwright.async_api import Browser

from tests.page.rig.pictures import DOCS, DRAWN_S, NAME, RECORD, SIZE, digest, take

COARSE = (36, 27)
MOST_DIFFERENCE = (
    10.0  # of 255, as a mean over all coarse points: figures and the order of pictures may differ
)


def test_the_picture_in_the_docs_was_made_of_this_page() -> None:
    with Image.open(DOCS / NAME) as picture:
        recorded = picture.info.get(RECORD)
    assert recorded == digest(), (
        f"The page has changed since docs/{NAME} was made: run `make page-pictures`, and look at the picture."
    )


@pytest.mark.timeout(DRAWN_S + 60)
async def test_the_picture_in_the_docs_shows_what_the_page_shows(browser: Browser, tmp_path: Path) -> None:
    with Image.open(DOCS / NAME) as old, Image.open(await take(browser, tmp_path)) as new:
        assert old.size == new.size == (SIZE["width"], SIZE["height"])
        difference = ImageChops.difference(_coarse(old), _coarse(new))
    assert max(ImageStat.Stat(difference).mean) < MOST_DIFFERENCE, "run `make page-pictures`, and look at it"


def _coarse(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB").resize(COARSE, Image.Resampling.BOX)
