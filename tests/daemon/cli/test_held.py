"""Held items: shown with their reason, sent again or given up by a person; the counts of a batch always sum."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from daemon.cli.options import spelled
from daemon.queue.outcomes import Outcome, Succeeded, Unknown
from pixmill.records.records import GroupView, Records
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation
from tests.daemon.live import made, working
from tests.servers import RedisServer

LOST = Unknown({"kind": "ambiguous_submit", "message": "The answer is lost.", "charged": "maybe"})


async def holding(redis: Redis, *ids: str, **more: Any) -> Installation:
    """A batch in which the answer to every item was lost."""
    installation = Installation(redis)
    items = [{"id": ident} for ident in ids]
    await installation.submit(
        {"id": "b1", "defaults": {"prompt": "x", "on_unknown_outcome": "hold"}, "items": items, **more},
        type="pixmill.batch.v1",
    )
    for item in await installation.claim(len(ids)):
        assert await installation.queue.settle(item, LOST) == "held"
    return installation


async def group(installation: Installation) -> GroupView:
    view = await Records(installation.redis, installation.keys).group("default/b1")
    assert view is not None
    counts = view.counts.by_state()
    assert sum(count for state, count in counts.items() if state != "total") == counts["total"]
    return view


HINT = re.compile(
    r"pixmill ((?:retry|cancel|watch|list|resume|quota) [^`;\n]*?)(?=`|;|$| sends)", re.MULTILINE
)


async def test_the_commands_in_hints_work_as_they_are(pixmill: Pixmill, redis: Redis, tmp_path: Path) -> None:
    await holding(redis, "a", tenant="studio")
    (tmp_path / "my shop.toml").write_text(
        '[quotas.main]\nimages = "1/s"\n[credentials.c]\nprovider = "openai"\napi_key_env = "K"\n'
        '[routes.default]\ncredential = "c"\nmodel = "m"\nquotas = ["main"]\n'
    )
    options = ("--tenant", "studio", "--config", "my shop.toml")
    commands: list[str] = []
    for words in (
        ("status", "b1"),
        ("status", "b1/a"),
        ("explain", "b1"),
        ("explain", "b1/a"),
        ("list",),
        ("retry", "b1"),
        ("quota", "pause", "main"),
        ("quota", "set", "main"),
        ("quota", "set", "main", "images=often"),
        ("quota", "set", "main", "images=20/min"),
        ("pause", "--route", "default"),
        ("status", "nobody"),
    ):
        ran = await pixmill(*words, *options)
        found = HINT.findall(ran.out + ran.err)
        assert found, (words, ran)
        commands += found
    for command in sorted(set(commands), reverse=True):
        given = shlex.split(command)
        assert given[-4:] == ["--config", "my shop.toml", "--tenant", "studio"], command
        ran = await pixmill(*given)
        assert (ran.code in (0, 5), command) == (True, command), ran


async def test_a_hint_never_repeats_a_password(pixmill: Pixmill, redis_server: RedisServer) -> None:
    url = redis_server.url.replace("redis://", "redis://default:hunter2@")
    ran = await pixmill("status", "nobody", "--redis-url", url)
    assert "hunter2" not in ran.out + ran.err


@pytest.mark.parametrize("url", ["redis://:hunter2@h/0", "redis://h/0?password=hunter2"])
def test_the_options_of_a_hint_hide_a_password_wherever_it_stands(url: str) -> None:
    assert spelled(redis_url=url) == " --redis-url URL"
    assert spelled(redis_url="redis://h/0") == " --redis-url redis://h/0"


async def test_held_items_are_listed_with_reason_and_remedy(pixmill: Pixmill, redis: Redis) -> None:
    installation = await holding(redis, "a", "c", tenant="studio")
    await installation.submit({"id": "j1", "prompt": "x", "on_unknown_outcome": "hold"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, LOST)
    listed = await pixmill("list", "--held")
    assert listed.code == 0
    lines = listed.out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["j1", "default"],
        ["b1/a", "studio"],
        ["b1/c", "studio"],
    ]
    assert all("The answer is lost. (ambiguous_submit, charged: maybe)" in line for line in lines[1:])
    assert "retry ID --held --tenant TENANT sends it again and may pay twice" in listed.err
    document = (await pixmill("list", "--held", "--tenant", "studio", "--json")).document
    assert [(one["item"], one["state"], one["error"]["kind"]) for one in document] == [
        ("a", "held", "ambiguous_submit"),
        ("c", "held", "ambiguous_submit"),
    ]
    assert len((await pixmill("list", "--held", "--limit", "1", "--json")).document) == 1
    assert "held and waits for you" in (await pixmill("list")).err


async def test_an_empty_list_of_held_items_is_a_note(pixmill: Pixmill, redis: Redis) -> None:
    await Installation(redis).batch("b1", 1)
    assert (await pixmill("list", "--held")).err == "Nothing is held.\n"
    assert "held" not in (await pixmill("list")).err


async def test_a_retry_sends_a_held_item_again_and_a_cancel_gives_it_up(
    pixmill: Pixmill, redis: Redis
) -> None:
    installation = await holding(redis, "a", "b", "c")
    assert (await group(installation)).counts.held == 3
    assert "1 queued again" in (await pixmill("retry", "b1/a", "--held")).out
    assert "1 cancelled" in (await pixmill("cancel", "b1/b")).out
    counts = (await group(installation)).counts
    assert (counts.queued, counts.cancelled, counts.held) == (1, 1, 1)
    assert "1 queued again" in (await pixmill("retry", "b1", "--held")).out
    async with working(redis):
        assert (await pixmill("watch", "b1")).code == 3
    view = await group(installation)
    assert (view.state, view.counts.succeeded, view.counts.cancelled) == ("completed_with_errors", 2, 1)


async def test_a_retry_without_held_leaves_held_items_and_shows_the_command(
    pixmill: Pixmill, redis: Redis
) -> None:
    installation = await holding(redis, "a", "b")
    ran = await pixmill("retry", "b1")
    assert "nothing to retry" in ran.out
    assert "2 held: pixmill retry b1 --held sends that again and may pay twice" in ran.err
    assert "1 held" in (await pixmill("retry", "b1/a")).err
    assert (await group(installation)).counts.held == 2


async def test_a_retried_held_item_may_have_another_unknown_outcome(
    redis: Redis,
) -> None:
    installation = await holding(redis, "a")
    await installation.orders.retry("group", "default/b1", ("held",))
    (item,) = await installation.claim()
    assert (item.receipt, item.attempts) == (b"", 0)
    assert await installation.queue.settle(item, LOST, "maybe") == "held"
    assert (await group(installation)).counts.held == 1


@pytest.mark.parametrize("seed", range(12))
async def test_the_counts_sum_after_any_order_of_orders_about_held_items(redis: Redis, seed: int) -> None:
    draw = random.Random(seed)
    installation = await holding(redis, *(f"i{number}" for number in range(6)))
    queue, orders = installation.queue, installation.orders
    uids = [f"default/b1/i{number}" for number in range(6)]
    for _ in range(40):
        match draw.choice(("retry", "cancel", "settle", "retry all", "cancel all")):
            case "retry":
                await orders.retry("item", draw.choice(uids), ("held", "cancelled"))
            case "cancel":
                await orders.cancel("item", draw.choice(uids), ("held", "queued", "running"))
            case "retry all":
                await orders.retry("group", "default/b1", ("held",))
            case "cancel all" if draw.random() < 0.2:
                await orders.cancel("group", "default/b1", ("held",))
            case _:
                for item in await installation.claim(draw.randint(1, 3)):
                    outcomes: list[Outcome] = [LOST, made(item), Succeeded({"images": []})]
                    outcome = draw.choice(outcomes)
                    await queue.settle(item, outcome, "yes")
        view = await group(installation)
        records = [await installation.record(uid) for uid in uids]
        assert view.counts.held == sum(record["state"] == "held" for record in records)
        assert view.ended == (view.counts.ended == 6)
