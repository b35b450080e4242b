"""An item costs the requests, commands, bytes and Lua that numbers.toml has, and no change of them goes unseen."""

from __future__ import annotations

import asyncio

from tests.counts.numbers import FILE, NO_REASON, Counted, counted, differences, kept, written
from tests.servers import RedisServer

TEXT = """\
# About this file.
[paced]
round_trips = 8  # why
bytes_sent = 2000  # arguments

[paced.instructions]
settle = 500  # the longest
gone = 3  # no more

[paced.commands]
XLEN = 2  # settle 2
"""
BEFORE = {
    "paced.round_trips": 8,
    "paced.bytes_sent": 2000,
    "paced.instructions.settle": 500,
    "paced.instructions.gone": 3,
    "paced.commands.XLEN": 2,
}


def test_an_item_costs_what_numbers_toml_says(redis_server: RedisServer) -> None:
    found = differences(kept(FILE.read_text("utf-8")), asyncio.run(counted(redis_server)).numbers)
    assert not found, "\n".join(["The cost of an item has changed.", *found])


def test_each_number_has_its_reason_beside_it() -> None:
    without = [line for line in FILE.read_text("utf-8").splitlines() if line.endswith(NO_REASON)]
    assert not without, f"Write in tests/counts/numbers.toml why an item needs these: {without}"


def test_a_number_that_grew_is_named_with_the_way_to_accept_it() -> None:
    grew, what_to_do = differences(BEFORE, {**BEFORE, "paced.instructions.settle": 501})
    assert grew.startswith("`paced.instructions.settle` (Lua instructions of settle.lua, a paced item)")
    assert grew.endswith("grew from 500 to 501.")
    assert "accept it by `python -m tests.counts.dump`" in what_to_do


def test_a_command_that_nobody_expects_has_grown_from_0() -> None:
    grew, _ = differences(BEFORE, {**BEFORE, "paced.commands.HGETALL": 1})
    assert grew == "`paced.commands.HGETALL` (commands HGETALL on the server, a paced item) grew from 0 to 1."


def test_a_number_that_fell_must_be_lowered() -> None:
    fell, what_to_do = differences(BEFORE, {**BEFORE, "paced.round_trips": 7})
    assert fell == "`paced.round_trips` (round trips, a paced item) fell from 8 to 7."
    assert "`python -m tests.counts.dump` lowers the number" in what_to_do


def test_bytes_may_differ_by_the_digits_of_times() -> None:
    assert differences(BEFORE, {**BEFORE, "paced.bytes_sent": 2020}) == []
    assert differences(BEFORE, {**BEFORE, "paced.bytes_sent": 1980}) == []
    assert differences(BEFORE, {**BEFORE, "paced.bytes_sent": 2021})


def test_a_dump_keeps_the_reasons_and_the_bytes_that_are_nearly_the_same() -> None:
    now = {"paced.round_trips": 7, "paced.bytes_sent": 2001, "paced.instructions.claim": 9}
    now |= {"paced.instructions.settle": 400, "paced.commands.HLEN": 3, "paced.commands.XLEN": 2}
    scripts = {"paced.commands.HLEN": "claim 2, settle 1", "paced.commands.XLEN": "claim 2"}
    assert kept(TEXT) == BEFORE
    assert (
        written(TEXT, Counted(now, scripts))
        == """\
# About this file.
[paced]
round_trips = 7  # why
bytes_sent = 2000  # arguments

[paced.instructions]
claim = 9  # new: say why
settle = 400  # the longest

[paced.commands]
HLEN = 3  # claim 2, settle 1
XLEN = 2  # claim 2
"""
    )
