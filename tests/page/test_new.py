"""The view "new": nothing starts before it was tried, and nothing starts twice."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import pytest
from playwright.async_api import Page, Route, expect

from daemon.files.csv_table import rows_of
from tests.page.rig.site import Site
from tests.page.rig.visit import Visit

CSV = "id,title\nk1,red kettle\nk2,blue pan\n"
START = re.compile(r"Start \d+ picture")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "spring sale.csv"
    file.write_text(CSV)
    return file


async def test_a_chosen_csv_is_tried_at_once_with_a_prompt_of_its_title(
    visit: Visit, site: Site, table: Path
) -> None:
    page = await visit.open(view="new")
    await page.locator("input[type=file]").set_input_files(table)
    await expect(page.get_by_role("button", name="Start 2 pictures")).to_be_visible()
    await expect(page.get_by_label("Prompt of each row")).to_have_value("{title}")
    await expect(page.get_by_text("The first row becomes")).to_contain_text("red kettle")
    await expect(page.get_by_label("Name of the batch")).to_have_value(re.compile(r"^spring-sale-\w{4}$"))
    assert (await site.http.get("/v1/batches")).json()["batches"] == []


async def test_a_dropped_csv_is_a_chosen_one(visit: Visit) -> None:
    page = await visit.open(view="new")
    await page.locator(".new-drop").evaluate(
        """(target, text) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([text], "dropped.csv", { type: "text/csv" }));
          for (const type of ["dragover", "drop"])
            target.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        CSV,
    )
    await expect(page.get_by_role("button", name="Start 2 pictures")).to_be_visible()


async def test_each_refused_line_has_its_field_and_its_reason(visit: Visit, tmp_path: Path) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text("id,prompt,size\nk1,a cup,3\nk2,a pan,\nk1,a pot,1024x1024\n")
    page = await visit.open(view="new")
    await page.locator("input[type=file]").set_input_files(file)
    rows = page.get_by_role("region", name="Faults by line").locator("tr:has(td)")
    await expect(rows).to_have_count(2)
    await expect(rows.nth(0).locator("td").nth(0)).to_have_text("2")
    await expect(rows.nth(0).locator("td").nth(1)).to_have_text("size")
    await expect(rows.nth(1)).to_contain_text("already taken in line 2")
    await expect(page.get_by_role("button", name=START)).to_have_count(0)


async def test_a_change_of_the_form_takes_the_start_away(visit: Visit, table: Path) -> None:
    page = await visit.open(view="new")
    await chosen(page, table)
    await page.get_by_label("Size").fill("16:9")
    await expect(page.get_by_role("button", name=START)).to_have_count(0)


async def test_a_double_click_starts_one_batch(visit: Visit, site: Site, table: Path) -> None:
    page = await visit.open(view="new")
    ident = await chosen(page, table)
    await page.get_by_role("button", name=START).dblclick()
    await expect(page).to_have_url(re.compile(f"batch={ident}"))
    listed = (await site.http.get("/v1/batches")).json()["batches"]
    assert [batch["id"] for batch in listed if batch["id"].startswith("spring-sale")] == [ident]


async def test_a_start_whose_reply_is_lost_may_be_pressed_again(
    visit: Visit, site: Site, table: Path
) -> None:
    page = await visit.open(view="new")
    ident = await chosen(page, table)
    visit.expected.append("Failed to load resource")
    await page.route("**/v1/batches?id=*", lose_reply, times=1)
    await page.get_by_role("button", name=START).click()
    await expect(page.get_by_role("region", name="What it takes").locator(".fault")).to_be_visible()
    await page.get_by_role("button", name=START).click()
    await expect(page).to_have_url(re.compile(f"batch={ident}"))
    assert (await site.batch(ident))["counts"]["total"] == 2


async def chosen(page: Page, table: Path) -> str:
    """Choose a file, and wait until it was tried; the id of its batch."""
    await page.locator("input[type=file]").set_input_files(table)
    await expect(page.get_by_role("button", name=START)).to_be_visible()
    return await page.get_by_label("Name of the batch").input_value()


async def lose_reply(route: Route) -> None:
    await route.fetch()
    await route.abort()


async def test_one_prompt_becomes_several_pictures(visit: Visit, site: Site) -> None:
    page = await visit.open(view="new")
    await page.get_by_label("one prompt").check()
    await page.get_by_label("Prompt", exact=True).fill("a green cup")
    await page.get_by_label("Pictures", exact=True).fill("3")
    ident = await started(page, 3)
    assert (await site.batch(ident))["counts"]["total"] == 3


async def test_a_prompt_goes_to_the_tenant_that_the_page_shows(visit: Visit, site: Site) -> None:
    page = await visit.open(view="new", tenant="shop")
    await page.get_by_label("one prompt").check()
    await page.get_by_label("Prompt", exact=True).fill("a green cup")
    ident = await started(page, 1)
    reply = await site.http.get(f"/v1/batches/{ident}", params={"tenant": "shop"})
    assert reply.status_code == 200


async def test_nothing_is_edited_while_a_start_is_under_way(visit: Visit, table: Path) -> None:
    page = await visit.open(view="new")
    ident = await chosen(page, table)
    form = page.locator(".new-form")
    inert: list[str | None] = []

    async def look(route: Route) -> None:
        await expect(form).to_have_attribute("inert", "")
        await page.get_by_label("Name of the batch").evaluate(
            "(field) => { field.value = 'other'; field.dispatchEvent(new Event('input', { bubbles: true })); }"
        )
        inert.append(await form.get_attribute("inert"))
        await route.continue_()

    await page.route("**/v1/batches?id=*", look, times=1)
    await page.get_by_role("button", name=START).click()
    await expect(page).to_have_url(re.compile(f"batch={ident}"))
    assert inert == [""]


async def test_a_file_that_cannot_be_read_is_a_fault(visit: Visit, table: Path) -> None:
    page = await visit.open(view="new")
    await page.evaluate(
        "() => { Blob.prototype.arrayBuffer = async () => { throw new Error('It cannot be read.'); }; }"
    )
    await page.locator("input[type=file]").set_input_files(table)
    await expect(page.locator(".fault")).to_contain_text("It cannot be read.")


async def started(page: Page, pictures: int) -> str:
    """Try and start the form; the id of the batch."""
    ident = await page.get_by_label("Name of the batch").input_value()
    await page.get_by_role("button", name="Check first").click()
    await page.get_by_role("button", name=f"Start {pictures} picture").click()
    await expect(page).to_have_url(re.compile(f"batch={ident}"))
    return ident


@pytest.mark.parametrize(
    "text",
    [
        "sku,title\nk1,red kettle\n",
        "\ufeffsku;title\r\nk1;red kettle\r\n",
        "sep=|\nsku|title\nk1|red kettle\n",
        'sku\ttitle\n"k1"\t"red kettle"\n',
        '\n"sku","title"\n\n"k1"," red kettle "',
        'sku,"title, long"\nk1,"a ""red"" kettle, large"\n',
        "sku,title\nk1\n",
    ],
)
async def test_the_form_reads_a_csv_as_the_gateway_does(visit: Visit, text: str) -> None:
    page = await visit.open(view="new")
    read = await page.evaluate(
        "async (text) => (await import(new URL('page/new/csv.js', document.baseURI))).headOf(text)", text
    )
    (_, header), (_, cells) = list(rows_of(text.lstrip("\ufeff")))[:2]
    assert read == {"columns": header, "row": dict(zip_longest(header, cells, fillvalue=""))}
