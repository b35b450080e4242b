"""Forty pictures from a CSV: tried, started, watched, one of them refused and made after all, and taken home.

With pictures on a disk, and in an S3 with the page below a path.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from daemon.demo.run import PRODUCTS, TEMPLATE
from providers.simulator.faults import Fault, FaultKind
from tests.object_stores import S3
from tests.page.batch import TILE, chip, pictures, tile, words
from tests.page.conftest import Enter
from tests.page.rig.site import Site, open_site

QUOTA = {"images": "20/2s", "in_flight": 8}
WAITS_S = 3
REFUSED, THROTTLED = "sku-009", "sku-012"


@contextmanager
def bucket() -> Iterator[str]:
    """An S3 of this process, with the variables that lead to it."""
    server = S3()
    server.bucket("pictures")
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environ:
        stack.callback(server.close)
        environ.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
        environ.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTED0000000000")
        environ.setenv("AWS_SECRET_ACCESS_KEY", "planted-aws-secret")
        environ.setenv("AWS_REGION", "us-east-1")
        yield "s3://pictures/shop"


@pytest_asyncio.fixture(loop_scope="session", scope="module", params=["disk", "s3"])
async def site(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    with ExitStack() as stack:
        store_url, prefix = (stack.enter_context(bucket()), "/shop") if request.param == "s3" else (None, "")
        async with open_site(quota=QUOTA, store_url=store_url, prefix=prefix) as site:
            yield site


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """The products of the demo, without the row that is always refused."""
    rows = [row for row in PRODUCTS.read_text().splitlines() if not row.startswith("sku-017")]
    file = tmp_path / "spring.csv"
    file.write_text("\n".join(rows))
    return file


def fault_for(
    site: Site, products: Path, item: str, kind: FaultKind, *, retry_after_s: float | None = None
) -> None:
    """Let the next call for a product of the CSV fail."""
    row = next(row.split(",") for row in products.read_text().splitlines() if row.startswith(item))
    site.simulator.faults.add(Fault(kind, prompt=f"{row[2]} {row[3]} {row[1]}", retry_after_s=retry_after_s))


async def test_forty_pictures_come_from_a_csv_and_leave_as_a_zip(
    enter: Enter, site: Site, products: Path
) -> None:
    fault_for(site, products, REFUSED, FaultKind.MODERATION)
    fault_for(site, products, THROTTLED, FaultKind.RATE_LIMIT, retry_after_s=WAITS_S)
    visit = await enter(accept_downloads=True)
    page = await visit.open(view="new")
    await started(page, products)

    await expect(page.locator(TILE)).to_have_count(40)
    await expect(words(page, THROTTLED)).to_contain_text(re.compile(r"waits for openai-main, \d s"))
    await expect(words(page, REFUSED)).to_contain_text("safety system")
    await expect(words(page, REFUSED)).to_contain_text("not charged")
    await visit.until(pictures(39), 30)
    await expect(chip(page, "Failed")).to_contain_text("1")

    await page.get_by_role("button", name="Retry it").click()
    await visit.until(pictures(40), 30)
    await expect(tile(page, REFUSED).locator("img")).to_be_visible()

    async with page.expect_download() as download:
        await page.get_by_role("link", name="ZIP").click()
    with zipfile.ZipFile(await (await download.value).path()) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert len([name for name in names if name.endswith(".png")]) == 40
    assert {"manifest.json", "manifest.csv"} <= set(names)


async def started(page: Page, products: Path) -> None:
    """Choose the file, see what it takes, and start it."""
    await page.locator("input[type=file]").set_input_files(products)
    await page.get_by_label("Prompt of each row").fill(TEMPLATE)
    await page.get_by_role("button", name="Check first").click()
    plan = page.get_by_role("region", name="What it takes")
    await expect(plan).to_contain_text(re.compile(r"40 pictures, about \d s, bound by images of openai-main"))
    await plan.get_by_role("button", name="Start 40 pictures").click()
    await expect(page).to_have_url(re.compile(r"batch=spring-"))
