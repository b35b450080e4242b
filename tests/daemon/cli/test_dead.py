"""dead: what ended as a dead letter is shown, grouped, tried again and purged."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation


@pytest.fixture
async def installation(redis: Redis) -> Installation:
    """Three dead letters: two with an unknown route, one that is not JSON."""
    installation = Installation(redis)
    for ident in ("a", "b"):
        await installation.add({"id": ident, "prompt": "x", "route": "later"})
    await installation.add("{not json", source="shop")
    await installation.take_all()
    return installation


async def test_list_shows_why_and_groups_by_reason(pixmill: Pixmill, installation: Installation) -> None:
    ran = await pixmill("dead", "list")
    assert ran.code == 0
    assert ran.out.splitlines()[0].split() == ["ID", "AT", "REASON", "TENANT", "JOB", "WHY"]
    assert 'There is no route "later"' in ran.out
    assert (await pixmill("dead", "list", "--group-by", "reason", "--json")).document == {
        "unknown_route": 2,
        "malformed": 1,
    }
    grouped = await pixmill("dead", "list", "--group-by", "reason")
    assert [line.split() for line in grouped.out.splitlines()] == [
        ["REASON", "COUNT"],
        ["unknown_route", "2"],
        ["malformed", "1"],
    ]
    assert (await pixmill("dead", "list", "--group-by", "tenant")).code == 2
    assert len((await pixmill("dead", "list", "--reason", "malformed", "--json")).document) == 1


async def test_show_has_the_original(pixmill: Pixmill, installation: Installation) -> None:
    (letter,) = await _letters(pixmill, "malformed")
    ran = await pixmill("dead", "show", letter["id"])
    assert ran.code == 0
    assert "malformed at 20" in ran.out
    assert "data: {not json" in ran.out
    assert "source: shop" in ran.out
    assert (await pixmill("dead", "show", letter["id"], "--json")).document == letter
    assert (await pixmill("dead", "show", "1-1")).code == 4


async def test_retry_sends_them_again(pixmill: Pixmill, installation: Installation, redis: Redis) -> None:
    ran = await pixmill("dead", "retry", "--reason", "unknown_route")
    assert (ran.code, ran.out) == (0, "2 of 2 tried again\n")
    assert await redis.xlen(installation.keys.jobs) == 2
    assert len(await installation.dead()) == 1
    # The reason is still there, so they come back.
    await installation.take_all()
    assert len(await installation.dead()) == 3


async def test_what_was_not_kept_cannot_be_tried_again(
    pixmill: Pixmill, installation: Installation, redis: Redis
) -> None:
    await installation.add({"id": "c", "prompt": "x", "api_key": "planted"})
    await installation.take_all()
    ran = await pixmill("dead", "retry", "--reason", "secret_in_payload")
    assert ran.code == 4
    assert "its original was not kept as a whole" in ran.err
    everything = await pixmill("dead", "retry", "--all", "--json")
    assert everything.code == 3
    assert everything.document["retried"] == 3
    assert len(await installation.dead()) == 1


async def test_purge_asks_before_it_throws_away(pixmill: Pixmill, installation: Installation) -> None:
    refused = await pixmill("dead", "purge", "--all", stdin="n\n")
    assert refused.code == 2
    assert len(await installation.dead()) == 3
    letters = await _letters(pixmill, "unknown_route")
    named = await pixmill("dead", "purge", letters[0]["id"], "--yes")
    assert (named.code, named.out) == (0, "1 purged\n")
    confirmed = await pixmill("dead", "purge", "--reason", "unknown_route", stdin="y\n")
    assert "1 purged" in confirmed.out
    rest = await pixmill("dead", "purge", "--all", "--yes", "--json")
    assert rest.document == {"purged": 1}
    assert await installation.dead() == []


@pytest.mark.parametrize("order", ["retry", "purge"])
async def test_which_ones_are_meant_must_be_said(pixmill: Pixmill, order: str) -> None:
    assert (await pixmill("dead", order)).code == 2
    assert (await pixmill("dead", order, "1-1", "--all")).code == 2
    unknown = await pixmill("dead", order, "1-1")
    assert (unknown.code, unknown.err) == (4, 'There is no dead letter "1-1".\n')


async def _letters(pixmill: Pixmill, reason: str) -> list[dict[str, Any]]:
    letters: list[dict[str, Any]] = (await pixmill("dead", "list", "--reason", reason, "--json")).document
    return letters
