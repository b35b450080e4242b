"""The arithmetic of docs/scaling.md is right, its configurations load, and its two prefixes are on two nodes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from redis.crc import key_slot

from daemon.doctor.redis_checks import ITEM_BYTES
from daemon.settings import Settings, load_settings
from tests.docs.pages import ROOT

TEXT = (ROOT / "docs" / "scaling.md").read_text("utf-8")
INSTALLATIONS = [
    block for block in re.findall(r"(?:^    .*\n|^\n)+", TEXT, re.MULTILINE) if "[redis]" in block
]


@pytest.fixture
def installations(tmp_path: Path) -> list[Settings]:
    made = []
    for number, block in enumerate(INSTALLATIONS):
        (tmp_path / f"{number}.toml").write_text(block)
        made.append(load_settings(tmp_path / f"{number}.toml", environ={}).settings)
    return made


def test_two_installations_have_no_account_and_no_node_in_common(installations: list[Settings]) -> None:
    first, second = installations
    assert {each.api_key_env for each in first.credentials.values()}.isdisjoint(
        each.api_key_env for each in second.credentials.values()
    )
    shown = dict(re.findall(r"`(\{pixmill-[ab]\})` is slot (\d+)", TEXT))
    slots = {each.redis.prefix: key_slot(each.redis.prefix.encode()) for each in installations}
    assert slots == {prefix: int(slot) for prefix, slot in shown.items()}
    assert len({slot * 3 // 16384 for slot in slots.values()}) == 2


def test_each_row_of_replicas_is_the_formula() -> None:
    slots = Settings().worker.max_in_flight
    assert f"A replica runs {slots} pictures" in TEXT
    rows = re.findall(r"^\| ([\d,]+) a minute \| (\d+) s \| (\d+) \| (\d+) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 3
    for minute, takes_s, used, replicas in rows:
        busy = int(minute.replace(",", "")) / 60 * int(takes_s)
        assert math.ceil(busy) == int(used)
        assert math.ceil(busy / slots) == int(replicas)


def test_what_one_redis_carries_follows_from_its_figures() -> None:
    assert "more than 12,000 items a second" in TEXT
    pictures_s = 250 / 60
    assert f"which is {pictures_s:.1f} a second" in TEXT
    assert f"some {round(12_000 / pictures_s, -3):,.0f} such accounts" in TEXT
    assert ITEM_BYTES * 1_000_000 == 3e9, "the doctor reckons with the upper end of the page"
