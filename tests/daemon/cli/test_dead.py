"""dead: dead letters are shown, grouped, tried again and purged."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.queue.dead_letters import DeadLetters
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation, eventually
from tests.daemon.live import working
from tests.servers import RedisServer


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
    assert ran.out.splitlines()[0].split() == ["ID", "AT", "REASON", "FIELD", "TENANT", "JOB", "WHY"]
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


async def test_what_a_terminal_obeys_is_escaped_in_names_and_values(
    pixmill: Pixmill, installation: Installation
) -> None:
    evil = "\x1b]52;c;aGk=\x07\u202e\x9b2J\nsucceeded"
    await installation.add(f"{{{evil}", **{evil: evil})
    await installation.take_all()
    (letter, *_) = await _letters(pixmill, "malformed")
    shown = await pixmill("dead", "show", letter["id"])
    listed = await pixmill("dead", "list")
    in_json = await pixmill("dead", "show", letter["id"], "--json")
    for ran in (shown, listed, in_json):
        assert ran.code == 0
        assert all(line.isprintable() for line in (ran.out + ran.err).split("\n"))
    assert "\\x1b]52;c;aGk=\\x07\\u202e\\x9b2J\\nsucceeded" in shown.out
    assert in_json.document["original"][evil] == evil


async def test_show_points_at_the_field_and_never_at_a_secret(
    pixmill: Pixmill, installation: Installation
) -> None:
    await installation.add(
        '{"id": "d",\n "size": "huge", "prompt": "x", "x_link": "https://a.example/p?sig=planted"}'
    )
    await installation.take_all()
    (letter,) = await _letters(pixmill, "invalid")
    assert (letter["field"], letter["place"]) == (
        "size",
        {"field": "size", "line": 2, "column": 10, "value": '"huge"'},
    )
    shown = await pixmill("dead", "show", letter["id"])
    assert '`size` is "huge": line 2, column 10 of `data`' in shown.out
    listed = await pixmill("dead", "list", "--reason", "invalid")
    assert listed.out.splitlines()[1].split()[3] == "size"
    assert "planted" not in shown.out + listed.out + str(letter)


async def test_retry_sends_them_again(pixmill: Pixmill, installation: Installation, redis: Redis) -> None:
    ran = await pixmill("dead", "retry", "--reason", "unknown_route")
    assert (ran.code, ran.out) == (0, "2 of 2 tried again\n")
    assert await redis.xlen(installation.keys.jobs) == 2
    assert len(await installation.dead()) == 1
    # The reason remains, so they come back.
    await installation.take_all()
    assert len(await installation.dead()) == 3


async def test_a_dead_letter_without_its_original_cannot_be_tried_again(
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


async def test_a_rate_spreads_the_retries(pixmill: Pixmill, installation: Installation) -> None:
    began = time.monotonic()
    ran = await pixmill("dead", "retry", "--all", "--rate", "20/s", "--json")
    assert time.monotonic() - began >= 2 / 20
    assert ran.document["retried"] == 3
    for rate in ("fast", "0/s", "2"):
        refused = await pixmill("dead", "retry", "--all", "--rate", rate)
        assert (refused.code, refused.err) == (
            2,
            f'--rate: "{rate}" is not a rate; write one such as 2/s or 100/min.\n',
        )


async def test_a_retry_sees_none_of_those_that_come_back(
    pixmill: Pixmill, installation: Installation
) -> None:
    """The reason remains, so a worker refuses each retry at once. The command must end all the same."""
    async with working(installation.redis):
        ran = await pixmill("dead", "retry", "--reason", "unknown_route", "--rate", "20/s")
        assert ran.out == "2 of 2 tried again\n"
        await eventually(lambda: _has_dead(installation, 3))


async def test_an_interrupted_retry_goes_on_with_the_rest_and_sends_each_once(
    redis_server: RedisServer, installation: Installation, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "daemon", "dead", "retry", "--all", "--rate", "1/h"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--redis-url",
        redis_server.url,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stderr=asyncio.subprocess.PIPE,
    )
    await eventually(lambda: _has_dead(installation, 2), timeout_s=45)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    # The signal may come between the step in Redis and its reply, which is then not counted.
    stopped = [f"Stopped after {count}; the same command goes on with the rest.\n" for count in (0, 1)]
    assert process.returncode == 130
    assert err.decode() in stopped
    letters = DeadLetters(installation.redis, installation.keys)
    rest = [letter async for letter in letters.oldest_first()]
    assert [await letters.retry(letter) for letter in rest] == ["resent", "resent"]
    sent = [fields[b"data"] for _, fields in await installation.redis.xrange(installation.keys.jobs)]
    assert len(sent) == len(set(sent)) == 3


async def test_purge_can_spare_young_dead_letters(pixmill: Pixmill, installation: Installation) -> None:
    old = {"reason": "malformed", "error": "{}", "attempts": 0, "at": "2026-01-01T00:00:00Z", "ids": "{}"}
    await installation.redis.delete(installation.keys.dead)
    await installation.redis.xadd(installation.keys.dead, old, id="1767225600000-0")
    await installation.submit({"id": "a", "prompt": "x", "route": "later"})
    spared = await pixmill("dead", "purge", "--reason", "unknown_route", "--older-than", "7d", "--yes")
    assert (spared.code, spared.out) == (0, "0 purged\n")
    assert (await pixmill("dead", "purge", "--older-than", "7d", "--yes", "--json")).document == {"purged": 1}
    assert [letter["reason"] for letter in await installation.dead()] == ["unknown_route"]
    assert (await pixmill("dead", "purge", "--older-than", "soon", "--yes")).code == 2
    assert (await pixmill("dead", "purge", "1-1", "--older-than", "7d", "--yes")).code == 2


async def test_purge_without_a_terminal_throws_nothing_away(
    pixmill: Pixmill, installation: Installation
) -> None:
    ran = await pixmill("dead", "purge", "--all", stdin="")
    assert ran.code == 2
    assert "--yes does it without a question" in ran.err
    assert len(await installation.dead()) == 3


async def test_purge_needs_a_confirmation(pixmill: Pixmill, installation: Installation) -> None:
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
async def test_a_command_must_name_its_dead_letters_in_one_way(pixmill: Pixmill, order: str) -> None:
    assert (await pixmill("dead", order)).code == 2
    assert (await pixmill("dead", order, "1-1", "--all")).code == 2
    unknown = await pixmill("dead", order, "1-1")
    assert (unknown.code, unknown.err) == (4, 'There is no dead letter "1-1".\n')


async def _letters(pixmill: Pixmill, reason: str) -> list[dict[str, Any]]:
    letters: list[dict[str, Any]] = (await pixmill("dead", "list", "--reason", reason, "--json")).document
    return letters


async def _has_dead(installation: Installation, count: int) -> bool:
    return len(await installation.dead()) == count
