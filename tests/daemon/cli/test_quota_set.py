"""quota set: its changes for the fleet, its output, and its refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from tests.daemon.cli.conftest import Pixmill
from tests.daemon.cli.test_quotas import CONFIG
from tests.daemon.harness import Installation

QUOTAS = "pixmill:quotas"


@pytest.fixture(autouse=True)
def config(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text(CONFIG)


@pytest.fixture
async def bell(redis: Redis) -> AsyncIterator[Any]:
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("pixmill:bell")
        await pubsub.get_message(timeout=5)
        yield pubsub


async def rung(bell: Any) -> list[str]:
    """The messages of the bell since the last look."""
    rings = []
    while (message := await bell.get_message(timeout=0.2)) is not None:
        rings.append(message["data"].decode())
    return rings


async def test_set_changes_named_limits_and_prints_those_in_force(pixmill: Pixmill, redis: Redis) -> None:
    ran = await pixmill("quota", "set", "main", "images=10/min")
    assert (ran.code, ran.out) == (
        0,
        "main: set to images 10/min, in_flight 8 (configured: images 2/h, in_flight 8)\n",
    )
    assert "pixmill quota set main --reset" in ran.err
    ran = await pixmill("quota", "set", "main", 'requests="50/min"', "in_flight=4", "--json")
    assert ran.document["limits"] == ["images 10/min", "in_flight 4", "requests 50/min"]
    assert ran.document["configured"] == ["images 2/h", "in_flight 8"]
    stored = await redis.hget(QUOTAS, "main")
    assert stored is not None
    table = orjson.loads(stored)
    assert table.pop("set_at").endswith("Z")
    assert table == {"images": "10/min", "requests": "50/min", "in_flight": 4}
    assert await Installation(redis).events() == []


async def test_quotas_marks_limits_that_an_operator_set(pixmill: Pixmill, redis: Redis) -> None:
    await pixmill("quota", "set", "main", "images=10/min")
    first, second = (await pixmill("quotas")).out.splitlines()
    assert first.startswith("main (images 10/min, in_flight 8; set by an operator on 20")
    assert first.endswith("Z, configured: images 2/h, in_flight 8): a call can be sent now; "
                          "10 of 10 images free, 0 of 8 in flight")  # fmt: skip
    assert second == "other (requests 5/s): a call can be sent now; 5 of 5 requests free"
    main, other = (await pixmill("quotas", "--json")).document
    assert main["configured"] == ["images 2/h", "in_flight 8"]
    assert (main["set_at"][:2], other["set_at"]) == ("20", None)
    await redis.hset(QUOTAS, "main", '{"images": "soon"}')
    assert "the limits that an operator set cannot be read" in (await pixmill("quotas")).out


async def test_explain_and_resume_use_the_limits_in_force(pixmill: Pixmill, redis: Redis) -> None:
    await Installation(redis).submit({"id": "j1", "prompt": "x"})
    await pixmill("quota", "set", "main", "requests=5/s")
    assert "5 of 5 requests free" in (await pixmill("quota", "resume", "main")).out
    await redis.zadd("pixmill:limiter:main:leases", {"g:0 r w": 2**52})
    await pixmill("quota", "set", "main", "in_flight=1")
    assert "all places in flight are taken" in (await pixmill("explain", "j1")).out


async def test_reset_returns_to_the_configuration(pixmill: Pixmill, redis: Redis) -> None:
    await pixmill("quota", "set", "main", "images=10/min")
    ran = await pixmill("quota", "set", "main", "--reset")
    assert (ran.code, ran.out) == (0, "main: as configured again: images 2/h, in_flight 8\n")
    assert await redis.hgetall(QUOTAS) == {}
    assert "nothing to reset" in (await pixmill("quota", "set", "main", "--reset")).out
    assert (await pixmill("quota", "set", "main", "--reset", "--json")).document["reset"] is False
    assert "set by" not in (await pixmill("quotas")).out


async def test_limits_of_a_quota_that_is_gone_can_be_reset(pixmill: Pixmill, redis: Redis) -> None:
    await redis.hset(QUOTAS, "former", '{"images": "1/s"}')
    assert (await pixmill("quota", "set", "former", "--reset")).code == 0
    assert await redis.hgetall(QUOTAS) == {}
    assert (await pixmill("quota", "set", "former", "--reset")).code == 4


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (("images=20 a minute",), "images=20/min"),
        (("imges=20/min",), "did you mean 'images'?"),
        (("images",), "write one such as images=20/min"),
        (("=20/min",), "write one such as images=20/min"),
        (("images=1/s", "images=2/s"), 'images=["10/s", "120/min"]'),
        (("in_flight=0",), "in_flight=8"),
        ((f"in_flight={10**30}",), "in_flight=8"),
        ((), "pixmill quota set main images=20/min in_flight=8"),
        (("images=1/s", "--reset"), "pixmill quota set main --reset"),
    ],
)
async def test_a_wrong_limit_is_refused_with_a_right_example(
    pixmill: Pixmill, redis: Redis, limits: tuple[str, ...], sentence: str
) -> None:
    ran = await pixmill("quota", "set", "main", *limits)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
    assert await redis.keys("*") == []


@pytest.mark.parametrize("what", ["images=1/s", "--reset"])
async def test_an_unknown_quota_is_an_error_with_the_nearest_name(
    pixmill: Pixmill, redis: Redis, what: str
) -> None:
    ran = await pixmill("quota", "set", "mian", what)
    assert (ran.code, ran.err) == (4, 'There is no quota "mian"; did you mean "main"?\n')
    assert await redis.keys("*") == []


async def test_every_order_about_a_quota_rings_for_it(pixmill: Pixmill, bell: Any) -> None:
    for order in (
        ("set", "main", "images=1/s"),
        ("set", "main", "--reset"),
        ("pause", "main"),
        ("resume", "main"),
    ):
        assert (await pixmill("quota", *order)).code == 0
        assert "quota main" in await rung(bell), order


async def test_config_check_ignores_limits_that_were_set(pixmill: Pixmill) -> None:
    before = await pixmill("config", "check", OPENAI_API_KEY="sk-planted")
    await pixmill("quota", "set", "main", "images=10/min")
    assert await pixmill("config", "check", OPENAI_API_KEY="sk-planted") == before
    assert before.code == 0
