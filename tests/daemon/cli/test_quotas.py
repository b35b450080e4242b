"""quotas, quota pause and resume, explain, simulate: their output, and their changes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.maintenance.write_probe import WriteProbe
from daemon.queue.outcomes import Retry, Succeeded, Throttled
from daemon.settings import load_settings
from daemon.settings.pace import pace_as_json
from limiter import Grant, Later, Limiter, parse_quota
from pixmill.contract.event_data import EVENT_DATA
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation
from tests.daemon.live import held, made

CONFIG = """
[credentials.main]
provider = "openai"
api_key_env = "OPENAI_API_KEY"

[quotas.main]
images = "2/h"
in_flight = 8

[quotas.other]
requests = "5/s"

[routes.default]
credential = "main"
model = "gpt-image-2"
quotas = ["main"]

[routes.free]
credential = "main"
model = "gpt-image-2"
"""
MAIN = parse_quota("main", {"images": "2/h", "in_flight": 8})
LIMITS = "main (images 2/h, in_flight 8)"


@pytest.fixture(autouse=True)
def config(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text(CONFIG)


@pytest.fixture
def limiter(redis: Redis) -> Limiter:
    return Limiter(redis, "pixmill")


async def ask(limiter: Limiter, request_id: str) -> Grant | Later:
    return await limiter.acquire([MAIN], holder="h", request_id=request_id, max_wait_s=0)


async def test_a_command_without_a_configuration_knows_the_quotas_of_the_fleet(
    pixmill: Pixmill, redis: Redis, limiter: Limiter, tmp_path: Path
) -> None:
    installation = Installation(redis)
    settings = load_settings(tmp_path / "pixmill.toml", environ={}).settings
    await WriteProbe(installation.queue, settings.retention, pace_as_json(settings)).write()
    (tmp_path / "pixmill.toml").unlink()
    await ask(limiter, "r1")
    await ask(limiter, "r2")
    await installation.submit({"id": "j1", "prompt": "x"})
    assert LIMITS in (await pixmill("quotas")).out
    assert "Quota main: " in (await pixmill("explain", "j1")).out
    paused = await pixmill("quota", "pause", "main", "--reason", "invoices")
    assert (paused.code, paused.err) == (0, "resume it with: pixmill quota resume main\n")
    assert "invoices" in (await pixmill("explain", "j1")).out
    (tmp_path / "cups.csv").write_text("id,prompt\n" + "".join(f"c{k},a cup\n" for k in range(50)))
    assert "by quota main, and" in (await pixmill("batch", "cups.csv", "--dry-run")).out
    assert (await pixmill("quota", "resume", "main")).code == 0
    assert (await pixmill("quota", "set", "main", "images=1/h")).code == 0
    assert (await pixmill("quota", "set", "main", "--reset")).code == 0
    assert 'did you mean "main"' in (await pixmill("quota", "pause", "mein")).err
    assert 'There is no route "defalt"' in (await pixmill("pause", "--route", "defalt")).err


async def test_waiting_for_a_job_shows_why_it_waits(
    redis: Redis, environment: dict[str, str], tmp_path: Path, pixmill: Pixmill
) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"})
    await pixmill("quota", "pause", "main", "--reason", "invoices")
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon", "watch", "j1"),
        cwd=tmp_path,
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None
    lines: list[bytes] = []
    async with asyncio.timeout(30):
        while not lines or b"invoices" not in lines[-1]:
            lines.append(await watching.stdout.readline())
            assert lines[-1], lines
    assert lines[-1].startswith(b"j1: 0/1 done (queued): ")
    watching.send_signal(signal.SIGINT)
    assert await watching.wait() == 130


async def test_a_record_that_cannot_be_read_is_as_good_as_none(
    pixmill: Pixmill, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "pixmill.toml").unlink()
    for written in ('{"routes": {"a": {"newer": 1}}}', "no json", "[]"):
        await redis.hset("pixmill:installation", "configured", written)
        ran = await pixmill("quotas")
        assert (ran.code, "No quota is configured" in ran.err) == (0, True)


# quotas


async def test_quotas_shows_that_polls_pause(pixmill: Pixmill, limiter: Limiter) -> None:
    await limiter.penalise(MAIN.polls, retry_after_s=30, reason="rate_limited")
    first, other = (await pixmill("quotas")).out.splitlines()
    assert first.startswith(f"{LIMITS}: a call can be sent now;")
    assert re.search(r"; polls pause for (30|29) s more \(rate_limited\)$", first)
    assert "polls" not in other
    document = (await pixmill("quotas", "--json")).document
    assert 25 < document[0]["polls_cooldown_seconds"] <= 30
    assert document[0]["polls_cooldown_reason"] == "rate_limited"


async def test_quotas_prints_a_line_for_each(pixmill: Pixmill, limiter: Limiter) -> None:
    ran = await pixmill("quotas")
    assert (ran.code, ran.out.splitlines()) == (
        0,
        [
            f"{LIMITS}: a call can be sent now; 2 of 2 images free, 0 of 8 in flight",
            "other (requests 5/s): a call can be sent now; 5 of 5 requests free",
        ],
    )
    await ask(limiter, "a")
    await ask(limiter, "b")
    line = (await pixmill("quotas")).out.splitlines()[0]
    assert line.startswith(f"{LIMITS}: its images are used up; the next slot is in 1 h 0 min; 0 of 2 images")
    (first, _) = (await pixmill("quotas", "--json")).document
    assert (first["quota"], first["bound"], first["in_flight"]) == ("main", "images", 2)
    assert 3590 < first["next_slot_seconds"] < 3601


async def test_without_a_quota_quotas_prints_a_note(pixmill: Pixmill, tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text("")
    ran = await pixmill("quotas")
    assert (ran.code, ran.out) == (0, "")
    assert "No quota is configured" in ran.err
    assert (await pixmill("quotas", "--json")).document == []
    assert (await pixmill("quotas", "--json", "--watch")).code == 2


async def test_watch_prints_changes_until_ctrl_c(
    redis: Redis, limiter: Limiter, environment: dict[str, str], tmp_path: Path
) -> None:
    root = str(Path(__file__).parents[3])
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon", "quotas", "--watch"),
        env={**os.environ, **environment, "PYTHONPATH": root},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None
    for name in (b"main", b"other"):
        assert (await asyncio.wait_for(watching.stdout.readline(), 20)).startswith(name)
    await limiter.pause("main", "invoice")
    assert b"paused (invoice)" in await asyncio.wait_for(watching.stdout.readline(), 20)
    watching.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(watching.wait(), 20) == 130


async def test_an_absurd_wait_is_named_with_the_time_until_a_call_tries_again(
    pixmill: Pixmill, limiter: Limiter, redis: Redis
) -> None:
    await limiter.exhausted(MAIN, reason="Too many requests.", retry_after_s=1e9)
    await Installation(redis).submit({"id": "a", "prompt": "x"})
    reason = "Too many requests. (the provider named a wait of 11,574 days; a call tries again after one day)"
    for command in (("quotas",), ("explain", "a")):
        printed = (await pixmill(*command)).out
        assert (
            f"paused ({reason}), for 24 h 0 min more" in printed or f"({reason}), for 23 h 59 min" in printed
        )
    (main, _) = (await pixmill("quotas", "--json")).document
    assert main["paused_reason"] == reason
    assert 86_300 < main["pause_ends_seconds"] <= 86_400
    assert "resumed" in (await pixmill("quota", "resume", "main")).out


# quota pause, quota resume


async def test_a_paused_quota_grants_nothing_until_it_is_resumed(
    pixmill: Pixmill, limiter: Limiter, redis: Redis
) -> None:
    ran = await pixmill("quota", "pause", "main", "--reason", "invoice\n dispute")
    assert (ran.code, ran.out) == (0, "main: paused, no replica sends under it\n")
    assert "pixmill quota resume main" in ran.err
    refused = await ask(limiter, "a")
    assert isinstance(refused, Later)
    assert str(refused.bound) == "quota:main.paused"
    assert "paused (invoice dispute), until it is resumed" in (await pixmill("quotas")).out
    ((kind, data),) = await Installation(redis).events()
    assert kind == "quota.paused"
    assert EVENT_DATA["quota.paused"].model_validate(data).model_dump()["quota"] == "main"
    ran = await pixmill("quota", "resume", "main")
    assert (ran.code, ran.out.split(";")[0]) == (0, "main: resumed")
    assert isinstance(await ask(limiter, "b"), Grant)
    assert "nothing to resume" in (await pixmill("quota", "resume", "main")).out
    assert (await pixmill("quota", "resume", "main", "--json")).document == {
        "quota": "main",
        "resumed": False,
    }


async def test_a_pause_for_a_time_ends_by_itself(pixmill: Pixmill, redis: Redis) -> None:
    ran = await pixmill("quota", "pause", "main", "--for", "10min")
    assert ran.code == 0
    assert ran.out.startswith("main: paused for 10 min 0 s, until 20")
    assert await redis.pttl("pixmill:limiter:main:pause") > 0
    assert 590 < (await pixmill("quotas", "--json")).document[0]["pause_ends_seconds"] <= 600
    assert (await pixmill("quota", "pause", "main", "--for", "90", "--json")).document["until"]
    assert (await pixmill("quotas", "--json")).document[0]["pause_ends_seconds"] <= 90
    for wrong in ("soon", "0s", "-5s"):
        assert (await pixmill("quota", "pause", "main", f"--for={wrong}")).code == 2


@pytest.mark.parametrize("order", ["pause", "resume"])
async def test_an_unknown_quota_is_an_error_with_the_nearest_name(
    pixmill: Pixmill, redis: Redis, order: str
) -> None:
    ran = await pixmill("quota", order, "mian")
    assert ran.code == 4
    assert ran.err == 'There is no quota "mian"; did you mean "main"?\n'
    assert await redis.keys("*") == []


# explain


async def test_explain_names_the_line_and_the_quota(pixmill: Pixmill, redis: Redis, limiter: Limiter) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 3)
    await installation.submit({"id": "j1", "prompt": "x"})
    ran = await pixmill("explain", "j1")
    assert ran.code == 0
    assert ran.out == (
        "j1: In the normal lane of route default 2 wait before it. "
        "Its quotas would grant a call now; it waits for a replica with a free worker.\n"
    )
    assert "default it is the next one." in (await pixmill("explain", "b1")).out
    await ask(limiter, "a")
    await ask(limiter, "b")
    ran = await pixmill("explain", "b1/i2")
    assert "Quota main: its images are used up; the next slot is in 1 h 0 min" in ran.out
    document = (await pixmill("explain", "b1/i2", "--json")).document
    assert (document["ahead"], document["quotas"]) == (3, {"main": "images"})
    assert (await pixmill("explain", "nobody")).code == 4


async def test_explain_names_the_replica_and_the_time_of_a_retry(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await installation.claim()
    assert "It runs on w1 for" in (await pixmill("explain", "j1")).out
    await installation.queue.note_receipt(item, b'{"task_id":"t1"}')
    assert "the provider has accepted it" in (await pixmill("explain", "j1")).out
    await installation.queue.settle(item, Retry({"kind": "server_error", "message": "It broke."}, 60.0))
    out = (await pixmill("explain", "j1")).out
    assert "It failed: It broke. (server_error). It is tried again at 20" in out
    assert "1 of 5 attempts are used" in out


async def test_explain_distinguishes_a_throttle_from_a_failure(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Throttled({"kind": "rate_limited", "message": "Slow down."}, 60.0))
    out = (await pixmill("explain", "j1")).out
    assert "The provider refused it for now: Slow down. (rate_limited)." in out
    assert "0 of 5 attempts are used" in out


async def test_explain_names_the_time_before_which_an_item_may_not_start(
    pixmill: Pixmill, redis: Redis
) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x", "not_before": "2099-01-02T03:04:05Z"})
    assert "may not start before 2099-01-02 03:04:05Z" in (await pixmill("explain", "j1")).out
    assert (await pixmill("explain", "j1", "--json")).document["until"].startswith("2099-01-02T03:04:05")


async def test_explain_names_the_flight_that_a_follower_waits_for(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit(*({"id": f"j{k}", "prompt": "x", "cache": "use"} for k in (1, 2)))
    (leader,) = await installation.claim(2)
    assert "An identical item makes its picture already" in (await pixmill("explain", "j2")).out
    await installation.queue.settle(leader, Succeeded({"images": [], "attempts": 1}))
    await installation.queue.due()
    assert "is copied next" in (await pixmill("explain", "j2")).out
    assert "priority normal" in (await pixmill("status", "j2")).out


async def test_explain_names_the_flight_that_a_batch_waits_for(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x", "cache": "use"})
    await installation.claim()
    await installation.batch("b1", 2, defaults={"prompt": "x", "cache": "use"})
    out = (await pixmill("explain", "b1")).out
    assert "None of its 2 waiting items makes a call. An identical item makes its picture already" in out


async def test_explain_names_the_cap_of_a_batch(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 3, max_in_flight=1)
    (item,) = await installation.claim()
    sentence = "Its batch allows itself 1 at a time, and 1 run."
    assert sentence in (await pixmill("explain", "b1/i1")).out
    assert sentence in (await pixmill("explain", "b1")).out
    await installation.queue.settle(item, made(item))
    assert "it is the next one" in (await pixmill("explain", "b1/i1")).out


async def test_explain_of_ended_and_held_items(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"}, {"id": "j2", "prompt": "x"})
    first, second = await installation.claim(2)
    await installation.queue.settle(first, made(first))
    await installation.queue.settle(second, held())
    assert (await pixmill("explain", "j1")).out == "j1: It waits for nothing; it has succeeded.\n"
    assert "j2: It is held: The answer is lost." in (await pixmill("explain", "j2")).out


async def test_explain_of_a_running_batch_and_of_an_unknown_route(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis, routes=("default", "elsewhere", "free"))
    await installation.batch("b1", 2)
    await installation.claim(2)
    assert (await pixmill("explain", "b1")).out == "b1: All of its remaining items run: 2 of 2 items.\n"
    await installation.submit({"id": "j1", "prompt": "x", "route": "elsewhere"})
    assert 'This configuration has no route "elsewhere"' in (await pixmill("explain", "j1")).out
    await installation.submit({"id": "j2", "prompt": "x", "route": "free"})
    assert "Its route has no quota" in (await pixmill("explain", "j2")).out


# simulate

PLAN = ("simulate", "--quota", "images=20/min", "--quota", "in_flight=8", "--jobs", "60", "--replicas", "4")


async def test_simulate_prints_the_limiter_beside_four_ways_without_one(pixmill: Pixmill) -> None:
    ran = await pixmill(*PLAN)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "60 jobs on 4 replicas; no sender can be faster than 2 min 3 s"
    assert lines[1].split() == ["STRATEGY", "MAKESPAN", "x", "OPTIMUM", "429s", "CALLS"]
    assert len(lines) == 7
    assert lines[2].split()[0] == "pixmill"
    assert lines[2].split()[-2:] == ["0", "60"]


async def test_simulate_gives_one_result_for_a_seed(pixmill: Pixmill) -> None:
    first = (await pixmill(*PLAN, "--json")).document
    assert first == (await pixmill(*PLAN, "--json")).document
    assert first != (await pixmill(*PLAN, "--json", "--seed", "5")).document
    ours = first["strategies"][0]
    assert (ours["strategy"], ours["throttled"], ours["gave_up"]) == ("pixmill", 0, False)


async def test_simulate_reports_a_strategy_that_gave_up(pixmill: Pixmill) -> None:
    ran = await pixmill("simulate", "--quota", "requests=1/h", "--jobs", "10", "--latency", "1")
    assert ran.code == 0
    assert "gave up after 100" in ran.out
    assert ran.out.splitlines()[2].split()[-2:] == ["0", "10"]


@pytest.mark.parametrize(
    ("quota", "latency", "sentence"),
    [
        ("images=20 a minute", "2-4", 'write images = "20/min"'),
        ("imges=20/min", "2-4", "did you mean 'images'?"),
        ("images", "2-4", "write one such as images=20/min"),
        ('images={ rate = "2000/day", reset = "UTC" }', "2-4", "calendar days"),
        ("polls=3/s", "2-4", "polls cannot be simulated"),
        ("images=20/min", "4-2", "is not a time"),
        ("images=20/min", "x", "is not a time"),
    ],
)
async def test_simulate_refuses_a_plan_that_it_cannot_run(
    pixmill: Pixmill, quota: str, latency: str, sentence: str
) -> None:
    ran = await pixmill("simulate", "--quota", quota, "--latency", latency)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err
