"""pause and resume, and where a pause is shown: status, explain and quotas."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.queue.pauses import read_pauses
from pixmill.records.keys import Keys
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.cli.test_quotas import CONFIG
from tests.daemon.harness import Installation


@pytest.fixture(autouse=True)
def config(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text(CONFIG)


async def test_the_whole_fleet_is_paused_and_resumed(pixmill: Pixmill, redis: Redis) -> None:
    ran = await pixmill("pause", "--reason", "new  prompts", "--for", "2h")
    assert ran.code == 0
    assert ran.out == "The whole fleet is paused (new prompts), for another 2 h 0 min.\n"
    assert ran.err == "resume it with: pixmill resume\n"
    (pause,) = (await read_pauses(redis, Keys("pixmill"))).values()
    assert pause.ends_s == pytest.approx(7200, abs=60)
    assert (await pixmill("resume")).out == "the whole fleet: resumed\n"
    assert (await pixmill("resume")).out == "the whole fleet: nothing to resume, it was not paused\n"


async def test_a_route_is_paused_by_its_name(pixmill: Pixmill) -> None:
    document = (await pixmill("pause", "--route", "free", "--json")).document
    assert document == {
        "paused": True,
        "scope": "route",
        "name": "free",
        "reason": "",
        "paused_by": None,
        "ends_seconds": None,
    }
    ran = await pixmill("resume")
    assert "nothing to resume" in ran.out
    assert ran.err == "note: Route free is paused, until it is resumed.\n", "it is not forgotten"
    assert (await pixmill("resume", "--route", "free", "--json")).document["resumed"] is True


async def test_an_unknown_route_is_refused_with_the_nearest_name(pixmill: Pixmill) -> None:
    ran = await pixmill("pause", "--route", "fre")
    assert (ran.code, ran.err) == (4, 'There is no route "fre"; did you mean `free`?\n')


async def test_the_pause_of_a_batch_is_shown_by_status_and_explain(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 3)
    ran = await pixmill("pause", "b1", "--reason", "look first")
    assert ran.out == "b1: This batch is paused (look first), until it is resumed.\n"
    assert "This batch is paused (look first)" in (await pixmill("status", "b1")).out
    assert (await pixmill("status", "b1", "--json")).document["paused"] == {
        "scope": "batch",
        "name": "b1",
        "reason": "look first",
        "paused_by": None,
        "ends_seconds": None,
    }
    for ident in ("b1", "b1/i2"):
        assert "This batch is paused (look first)" in (await pixmill("explain", ident)).out
    assert (await pixmill("explain", "b1", "--json")).document["paused"]["scope"] == "batch"
    assert (await pixmill("resume", "b1")).out == "b1: resumed\n"
    assert (await pixmill("status", "b1", "--json")).document["paused"] is None


async def test_pauses_of_fleet_and_route_are_shown_with_work_and_quotas(
    pixmill: Pixmill, redis: Redis
) -> None:
    await Installation(redis).submit({"id": "j1", "prompt": "x"})
    await pixmill("pause", "--route", "default")
    sentence = "Route default is paused, until it is resumed."
    assert sentence in (await pixmill("status", "j1")).out
    assert (await pixmill("explain", "j1")).out.startswith(f"j1: {sentence}")
    assert (await pixmill("quotas")).out.splitlines()[0] == sentence
    main, other = (await pixmill("quotas", "--json")).document
    assert [pause["scope"] for pause in main["work_paused"]] == ["route"]
    assert other["work_paused"] == [], "no paused route spends it"
    await pixmill("pause")
    _, other = (await pixmill("quotas", "--json")).document
    assert [pause["scope"] for pause in other["work_paused"]] == ["fleet"]


async def test_a_pause_that_cannot_be_is_refused_in_a_sentence(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"})
    await installation.batch("b1", 1)
    ran = await pixmill("pause", "j1")
    assert ran.code == 4
    assert "a single job, which has no pause of its own" in ran.err
    assert (await pixmill("pause", "nothing")).code == 4
    assert (await pixmill("pause", "b1", "--route", "free")).code == 2
    assert (await pixmill("pause", "b1", "--for", "5min")).code == 2
    assert (await pixmill("pause", "--for", "soon")).code == 2
    await pixmill("cancel", "b1")
    assert "has ended, so there is nothing to pause" in (await pixmill("pause", "b1")).err
