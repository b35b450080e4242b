"""submit, batch, watch, status, list, cancel, retry: their output, and the exit code for each end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.cli.commands.explain import reason_of
from daemon.cli.session import Session
from daemon.queue.outcomes import Failed, Throttled
from pixmill.client import Client
from pixmill.records.keys import Keys
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation, eventually
from tests.daemon.live import made, refused, working
from tests.servers import RedisServer, free_port

KEYS = Keys("pixmill")


# submit


async def test_submit_prints_the_id_and_nothing_else_on_stdout(pixmill: Pixmill, redis: Redis) -> None:
    async with working(redis):
        ran = await pixmill(
            "submit", "a red kettle", "--size", "16:9", "--seed", "0", "--n", "2", "--priority", "high"
        )
    assert ran.code == 0
    assert re.fullmatch(r"job-[0-9a-f]{12}\n", ran.out)
    assert f"pixmill watch {ran.out.strip()}" in ran.err
    spec = orjson.loads(await redis.hget(KEYS.item(f"default//{ran.out.strip()}.1"), "spec") or b"")
    assert (spec["prompt"], spec["size"], spec["seed"], spec["priority"]) == (
        "a red kettle",
        "16:9",
        1,
        "high",
    )


@pytest.mark.parametrize(
    ("prompt", "code", "sentence"),
    [
        ("a kettle", 0, "succeeded"),
        ("bad kettle", 4, "The provider refuses this prompt."),
        ("odd kettle", 4, "held"),
    ],
)
async def test_submit_wait_stays_to_the_end_and_prints_it(
    pixmill: Pixmill, redis: Redis, prompt: str, code: int, sentence: str
) -> None:
    async with working(redis):
        ran = await pixmill("submit", prompt, "--id", "j1", "--wait")
    assert (ran.code, ran.err) == (code, "")
    assert sentence in ran.out


async def test_submit_of_a_refused_job_prints_the_reason_and_fails(pixmill: Pixmill, redis: Redis) -> None:
    async with working(redis):
        ran = await pixmill("submit", "x", "--route", "defualt")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err == 'There is no route "defualt"; did you mean "default"?\n'


async def test_submit_with_a_wrong_value_is_a_usage_error_and_sends_nothing(
    pixmill: Pixmill, redis: Redis
) -> None:
    ran = await pixmill("submit", "x", "--size", "huge")
    assert ran.code == 2
    assert ran.err.startswith("`size` must be pixels such as")
    assert await redis.xlen(KEYS.jobs) == 0


async def test_a_sent_job_is_followed_with_the_options_of_its_command(pixmill: Pixmill, redis: Redis) -> None:
    async with working(redis):
        ran = await pixmill("submit", "x", "--id", "j1", "--tenant", "studio")
        assert ran.err.endswith("follow it with: pixmill watch j1 --tenant studio\n")
        assert (await pixmill("watch", "j1", "--tenant", "studio")).code == 0


async def test_submit_without_a_worker_notes_that_the_job_stays(
    pixmill: Pixmill, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.cli.acceptance.ACCEPT_S", 0)
    ran = await pixmill("submit", "x", "--id", "j1")
    assert ran.code == 0
    assert "No worker has taken job j1 yet; it stays in the stream." in ran.err


async def test_the_same_id_and_content_again_is_no_error(pixmill: Pixmill, redis: Redis) -> None:
    async with working(redis):
        await pixmill("submit", "x", "--id", "j1")
        again = await pixmill("submit", "x", "--id", "j1")
        other = await pixmill("submit", "y", "--id", "j1")
    assert again.code == 0
    assert "sent before with the same content" in again.err
    assert other.code == 4
    assert "taken by a job with other content" in other.err


async def test_a_file_of_this_machine_is_no_input(pixmill: Pixmill, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    ran = await pixmill("submit", "x", "--input", "photo.png")
    assert ran.code == 2
    assert "which the workers cannot read" in ran.err


@pytest.mark.parametrize(
    "path",
    ["./missing.png", "../missing.png", "/tmp/missing.png", "~/missing.png", "file:///tmp/missing.png"],
)
async def test_a_path_on_this_machine_is_no_input(pixmill: Pixmill, redis: Redis, path: str) -> None:
    ran = await pixmill("submit", "x", "--input", path)
    assert ran.code == 2
    assert "URL, or the key of an object" in ran.err
    assert await redis.xlen(KEYS.jobs) == 0


async def test_an_object_key_is_an_input(
    pixmill: Pixmill, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.cli.acceptance.ACCEPT_S", 0)
    assert (await pixmill("submit", "x", "--input", "default/20261122/single/a.png")).code == 0
    rows: Any = await redis.xrange(KEYS.jobs)
    ((_, fields),) = rows
    assert orjson.loads(fields[b"data"])["inputs"] == [{"object": "default/20261122/single/a.png"}]


# batch


async def test_batch_watch_stays_to_the_end_and_prints_failures(
    pixmill: Pixmill, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "skus.csv").write_text("id,title\na,Kettle\nb,Cup\n")
    async with working(redis):
        ran = await pixmill(
            "batch", "skus.csv", "--id", "b1", "--prompt-template", "{title}, white", "--watch"
        )
        bad = await pixmill("batch", "skus.csv", "--id", "b2", "--prompt-template", "bad {title}", "--watch")
    assert (ran.code, bad.code) == (0, 4)
    assert "batch b1 (tenant default): completed, 2 of 2 done" in ran.out
    assert "a failed: The provider refuses this prompt. (moderation_input, HTTP 400, charged: no)" in bad.out
    assert "\x1b" not in ran.out


async def test_a_batch_that_fails_in_part_exits_with_3(
    pixmill: Pixmill, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "skus.csv").write_text("id,prompt\na,Kettle\nb,bad cup\n")
    async with working(redis):
        ran = await pixmill("batch", "skus.csv", "--id", "b1", "--watch", "--json")
    assert ran.code == 3
    assert ran.document["state"] == "completed_with_errors"
    assert [(item["item"], item["state"]) for item in ran.document["items"]] == [
        ("a", "succeeded"),
        ("b", "failed"),
    ]


async def test_a_file_sent_twice_is_one_batch(pixmill: Pixmill, redis: Redis, tmp_path: Path) -> None:
    (tmp_path / "my skus.csv").write_text("id,prompt\na,Kettle\n")
    async with working(redis):
        first = await pixmill("batch", "my skus.csv")
        second = await pixmill("batch", "my skus.csv")
        other = await pixmill("batch", "my skus.csv", "--size", "1:1")
    assert first.out == second.out != other.out
    assert "sent before with the same content" in second.err
    assert await redis.zcard(KEYS.index) == 2


async def test_a_wrong_file_is_reported_by_line_and_not_sent(
    pixmill: Pixmill, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "skus.csv").write_text("id,prompt,n\na,Kettle,0\nb,,1\n")
    ran = await pixmill("batch", "skus.csv")
    assert ran.code == 2
    assert [line.split(":")[0] for line in ran.err.splitlines()] == ["skus.csv, line 2", "skus.csv, line 3"]
    missing = await pixmill("batch", "nowhere.csv")
    assert (missing.code, missing.err) == (2, "nowhere.csv: No such file or directory.\n")
    template = await pixmill("batch", "skus.csv", "--prompt-template", "{id!r}")
    assert template.code == 2
    assert "the prompt template names `id!r`, which is not there" in template.err
    brace = await pixmill("batch", "skus.csv", "--prompt-template", "{id")
    assert (brace.code, "a single `{`" in brace.err) == (2, True)
    assert await redis.xlen(KEYS.jobs) == 0


async def test_dry_run_prints_the_plan_and_the_least_time(
    pixmill: Pixmill, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "pixmill.toml").write_text(
        '[credentials.main]\nprovider = "openai"\n[quotas.main]\nimages = "20/min"\n'
        '[routes.default]\ncredential = "main"\nmodel = "m"\nquotas = ["main"]\n'
        '[routes.other]\ncredential = "main"\nmodel = "m"\nquotas = ["main"]\n'
    )
    rows = [f"i{k},Title {k},{'other' if k % 2 else ''}" for k in range(300)]
    (tmp_path / "skus.csv").write_text("\n".join(["id,title,route", *rows]))
    options = ("batch", "skus.csv", "--prompt-template", "{title}, white", "--dry-run", "--id", "b1")
    ran = await pixmill(*options)
    assert ran.code == 0
    assert "would send batch b1 (tenant default): 300 items, 300 pictures" in ran.out
    assert "route other: 150 pictures" in ran.out
    assert "i0: Title 0, white" in ran.out
    # Both routes spend one quota: 300 pictures at 20 a minute, the first 20 at once.
    assert "At least 14 min 0 s by quota main" in ran.out
    document = (await pixmill(*options, "--json")).document
    assert (document["items"], document["at_least_seconds"], document["bound"]) == (300, 840.0, "main")
    assert await redis.xlen(KEYS.jobs) == 0


async def test_a_plan_names_the_columns_and_rows_that_are_left_out(pixmill: Pixmill, tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("ID,Name,Images\n1,Kettle,https://s.example/1.jpg\n2,,x\n")
    options = ("batch", "shop.csv", "--prompt-template", "{Name}", "--skip-empty")
    ran = await pixmill(*options, "--dry-run")
    assert "Columns that nothing uses: Images (did you mean inputs?)." in ran.out
    assert "Rows that were left out, because they have no prompt: 1." in ran.out
    document = (await pixmill(*options, "--dry-run", "--json")).document
    assert (document["unused_columns"], document["skipped_rows"]) == (["Images"], 1)
    assert "Columns that nothing uses: Images" in (await pixmill(*options)).err


async def test_dry_run_needs_no_redis(pixmill: Pixmill, tmp_path: Path) -> None:
    (tmp_path / "skus.jsonl").write_text('{"prompt":"x","route":"one"}\n')
    ran = await pixmill("batch", "skus.jsonl", "--dry-run", PIXMILL_REDIS__URL="redis://127.0.0.1:1/0")
    assert ran.code == 0
    assert "the time is not known" in ran.out


# watch and status


async def test_watch_of_ended_work_prints_its_end_at_once(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 2)
    await installation.orders.cancel("group", "default/b1", ["queued"])
    ran = await pixmill("watch", "b1")
    assert ran.code == 5
    assert ran.out.startswith("batch b1 (tenant default): cancelled, 2 of 2 done")


async def test_watch_ends_when_only_a_person_can_go_on(
    pixmill: Pixmill, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "jobs.csv").write_text("id,prompt\na,x\nb,odd\n")
    async with working(redis):
        ran = await pixmill("batch", "jobs.csv", "--id", "b1", "--watch")
    assert ran.code == 3
    assert "b held: The answer is lost. (ambiguous_submit, charged: maybe)" in ran.out
    assert "pixmill retry b1 --held" in ran.out


async def test_watch_shows_the_estimate_and_the_bound(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 4)
    data = {
        "tenant": "default",
        "batch": "b1",
        "counts": {},
        "eta_seconds": 7250,  # less the time since then
        "bound": "quota:main.images",
    }
    progress = {"type": "batch.progress", "data": orjson.dumps(data)}
    await redis.xadd(KEYS.batch_events("b1"), progress)  # type: ignore[arg-type]  # the stubs' dict is invariant
    status = await pixmill("status", "b1")
    assert "about 2 h 0 min left; held back by quota:main.images" in status.out
    assert status.code == 0
    document = (await pixmill("status", "b1", "--json")).document
    assert (document["batch"], document["bound"]) == ("b1", "quota:main.images")
    assert 7200 < document["eta_seconds"] <= 7250
    assert document["counts"]["total"] == 4


@pytest.mark.parametrize("command", ["status", "watch", "cancel", "retry"])
async def test_an_unknown_id_exits_with_4_and_a_sentence(pixmill: Pixmill, command: str) -> None:
    ran = await pixmill(command, "nobody")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith('There is no record of "nobody" in tenant "default"')
    assert (await pixmill(command, "nobody", "--json")).document["error"]["code"] == "not_found"


async def test_the_status_of_a_refused_id_leads_to_its_dead_letter(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.add({"id": "j1", "prompt": "x", "route": "nowhere", "tenant": "studio"})
    await installation.take_all()
    ran = await pixmill("status", "j1", "--tenant", "studio")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith('j1 was refused: There is no route "nowhere"')
    hint = re.search(r"`pixmill (dead show [^`]+)`", ran.err)
    assert hint is not None
    assert "j1" in (await pixmill(*hint[1].split())).out
    assert "There is no record" in (await pixmill("status", "j1")).err


async def test_status_shows_a_requested_cancel(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 2)
    await installation.claim(1)
    before = await pixmill("status", "b1")
    await pixmill("cancel", "b1")
    after = await pixmill("status", "b1")
    assert before.out.startswith("batch b1 (tenant default): running")
    assert "a cancel was requested" not in before.out
    assert after.out.startswith("batch b1 (tenant default): running")
    assert "a cancel was requested" in after.out


async def test_status_of_single_items_in_words(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 2, tenant="studio")
    items = await installation.claim(2)
    await installation.queue.settle(items[0], made(items[0]))
    await installation.queue.settle(items[1], refused("This prompt is refused."))
    good = await pixmill("status", "b1/i0", "--tenant", "studio")
    bad = await pixmill("status", "b1/i1", "--tenant", "studio")
    assert (good.code, bad.code) == (0, 4)
    assert "job i0 of batch b1 (tenant studio): succeeded" in good.out
    assert "image studio/20261122/b1/i0.png (16x16" in good.out
    assert "This prompt is refused. (moderation_input, HTTP 400, charged: no)" in bad.out
    document = (await pixmill("status", "b1", "--tenant", "studio", "--json", "--items")).document
    assert [item["state"] for item in document["items"]] == ["succeeded", "failed"]
    assert document["items"][0]["images"][0]["key"] == "studio/20261122/b1/i0.png"


LIMITED = {"kind": "rate_limited", "message": "Rate limit reached.", "charged": "no"}


async def test_a_job_that_succeeded_has_no_error_left(
    pixmill: Pixmill, redis: Redis, redis_server: RedisServer
) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Throttled(LIMITED, 0.0))
    await installation.queue.due()
    (item,) = await installation.claim()
    running = await pixmill("status", "j1")
    assert "the last error: Rate limit reached." in running.out
    await installation.queue.settle(item, made(item))
    for ran in (await pixmill("status", "j1"), await pixmill("explain", "j1")):
        assert "succeeded" in ran.out
        assert "Rate limit" not in ran.out
    assert (await pixmill("status", "j1", "--json")).document["error"] is None
    async with Client.connect(redis_server.url) as client:
        assert [result.error for result in await client.results("j1")] == [None]


async def test_the_last_error_is_not_why_a_job_was_cancelled(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x"})
    (item,) = await installation.claim()
    await installation.queue.settle(item, Throttled(LIMITED, 3600.0))
    assert "\n  Rate limit reached." in (await pixmill("status", "j1")).out
    await pixmill("cancel", "j1")
    assert "the last error: Rate limit reached." in (await pixmill("status", "j1")).out
    assert "cancelled: the last error: Rate limit" in (await pixmill("explain", "j1")).out


# list, cancel, retry


async def test_list_shows_the_newest_first(pixmill: Pixmill, redis: Redis) -> None:
    empty = await pixmill("list")
    assert (empty.code, empty.out) == (0, "")
    installation = Installation(redis)
    await installation.submit({"id": "j1", "prompt": "x", "tenant": "other"})
    await installation.batch("b1", 3)
    ran = await pixmill("list")
    header, first, second = ran.out.splitlines()
    assert header.split() == ["ID", "KIND", "TENANT", "STATE", "DONE", "ITEMS", "ACCEPTED"]
    assert first.split()[:5] == ["b1", "batch", "default", "running", "0/3"]
    assert second.split()[:5] == ["j1", "job", "other", "queued", "0/1"]
    assert [row.get("batch") for row in (await pixmill("list", "--json", "--limit", "1")).document] == ["b1"]
    assert len((await pixmill("list", "--json", "--tenant", "other")).document) == 1


async def test_cancel_and_retry_print_how_many(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 3)
    (item,) = await installation.claim(1)
    ran = await pixmill("cancel", "b1")
    assert (ran.code, ran.out) == (0, "b1: 2 cancelled; 1 running, stop requested\n")
    await installation.queue.settle(item, refused())
    assert (await pixmill("cancel", "b1")).out == "b1: nothing to cancel, it has ended\n"
    assert (await pixmill("retry", "b1", "--failed")).out == "b1: 1 queued again\n"
    assert (await pixmill("retry", "b1")).out == "b1: nothing to retry, no item is failed\n"
    assert (await pixmill("retry", "b1", "--cancelled", "--json")).document == {
        "id": "b1",
        "queued": 2,
        "states": ["cancelled"],
    }


async def test_cancel_waiting_leaves_running_items_alone(pixmill: Pixmill, redis: Redis) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 3)
    await installation.claim(1)
    ran = await pixmill("cancel", "b1", "--waiting", "--json")
    assert ran.document == {"id": "b1", "cancelled": 2, "asked_to_stop": 0}


# all commands


async def test_an_unreachable_redis_is_a_sentence_without_its_password(pixmill: Pixmill) -> None:
    ran = await pixmill("status", "x", "--redis-url", f"redis://:planted-password@127.0.0.1:{free_port()}/0")
    assert ran.code == 4
    assert "does not answer" in ran.err
    assert "planted-password" not in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("command", [("submit", "x"), ("status", "x"), ("up",), ("config", "check")])
async def test_a_password_that_breaks_the_url_is_a_sentence_and_not_a_traceback(
    pixmill: Pixmill, command: tuple[str, ...]
) -> None:
    ran = await pixmill(*command, PIXMILL_REDIS__URL="redis://:s3cr/et@127.0.0.1")
    assert ran.code == 2
    assert ran.err.startswith("environment PIXMILL_REDIS__URL: `redis.url` must be redis://")
    assert "s3cr" not in ran.err + ran.out


async def test_without_any_redis_the_sentence_names_the_remedy(pixmill: Pixmill) -> None:
    ran = await pixmill("list", PIXMILL_REDIS__URL=None)
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith("No Redis is configured, and no `pixmill up` is running here.")


async def test_prefix_and_config_choose_the_installation(
    pixmill: Pixmill, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.cli.acceptance.ACCEPT_S", 0)
    (tmp_path / "other.toml").write_text('[redis]\nprefix = "fromfile"\n')
    await pixmill("submit", "x", "--config", "other.toml", "--id", "j1", "--json")
    assert await redis.xlen("fromfile:jobs") == 1
    wrong = await pixmill("list", "--config", "nowhere.toml")
    assert wrong.code == 2
    assert "nowhere.toml" in wrong.err


async def test_in_a_pipe_watch_prints_a_line_for_each_change(
    redis: Redis, environment: dict[str, str], tmp_path: Path
) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 2)
    watching = await _started(environment, tmp_path, "watch", "b1")
    assert watching.stdout is not None
    lines = [await asyncio.wait_for(watching.stdout.readline(), 20)]
    first, second = await installation.claim(2)
    await installation.queue.settle(first, made(first))
    lines.append(await asyncio.wait_for(watching.stdout.readline(), 20))
    await installation.queue.settle(second, made(second))
    rest, err = await asyncio.wait_for(watching.communicate(), 20)
    assert (watching.returncode, err) == (0, b"")
    assert lines[0] == b"b1: 0/2 done (2 queued)\n"
    assert lines[1].startswith(b"b1: ")
    assert b"b1: 2/2 done (2 succeeded)\nbatch b1 (tenant default): completed, 2 of 2 done\n" in rest


async def test_ctrl_c_stops_the_watching_and_prints_the_command_to_come_back(
    redis: Redis, environment: dict[str, str], tmp_path: Path
) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 2)
    watching = await _started(environment, tmp_path, "watch", "b1")
    assert watching.stdout is not None
    assert b"b1: 0/2 done (2 queued)" in await asyncio.wait_for(watching.stdout.readline(), 20)
    watching.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(watching.communicate(), 20)
    assert watching.returncode == 130
    assert err == b"Stopped watching; the work goes on. Come back with: pixmill watch b1\n"
    assert (await installation.group("default/b1"))["queued"] == "2"


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("160", "about 2 h 0 min left; held back by quota:main.images; 4 queued"),
        ("60", "about 2 h 0 min left"),
    ],
)
async def test_on_a_terminal_a_bar_shows_counts_and_estimate(
    redis: Redis, environment: dict[str, str], tmp_path: Path, columns: str, words: str
) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 4)
    data = {
        "tenant": "default",
        "batch": "b1",
        "counts": {},
        "eta_seconds": 7250,
        "bound": "quota:main.images",
    }
    await redis.xadd(KEYS.batch_events("b1"), {"type": "batch.progress", "data": json.dumps(data)})
    env = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "TERM": "xterm",
        "COLUMNS": columns,
    }
    shown = bytearray()
    ours, theirs = os.openpty()
    watching = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", "watch", "b1", cwd=tmp_path, env=env, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, ours, shown))
    try:
        await eventually(lambda: _shown(shown, words), 20)
        assert "0/4" in shown.decode()
        async with working(redis):
            assert await asyncio.wait_for(watching.wait(), 20) == 0
    finally:
        if watching.returncode is None:
            watching.kill()
        await reading
    assert "batch b1 (tenant default): completed, 4 of 4 done" in shown.decode()


@pytest.mark.parametrize(
    ("command", "words", "code"),
    [
        ("status b1", "i0 failed: \\u88ab\\u62d2\\u7edd \\xd7", 0),
        ("status b1/i0", "\\u88ab\\u62d2\\u7edd \\xd7", 4),
        ("list", "b1", 0),
        ("watch b1", "1/2", 130),
    ],
)
async def test_a_terminal_with_ascii_alone_gets_escapes(
    redis: Redis, environment: dict[str, str], tmp_path: Path, command: str, words: str, code: int
) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 2)
    (item,) = await installation.claim()
    await installation.queue.settle(item, Failed({"kind": "content_rejected", "message": "被拒绝 ×"}))
    env = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[3])}
    env |= {"PYTHONIOENCODING": "ascii", "TERM": "xterm", "COLUMNS": "160"}
    shown = bytearray()
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", *command.split(), cwd=tmp_path, env=env, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, ours, shown))
    try:
        await eventually(lambda: _shown(shown, words), 20)
        if code == 130:
            process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == code
    finally:
        if process.returncode is None:
            process.kill()
        await reading
    text = shown.decode("ascii")
    assert "Traceback" not in text
    assert "\\u2" not in text  # the bar itself needs no other letters


async def _started(environment: dict[str, str], directory: Path, *args: str) -> asyncio.subprocess.Process:
    """`pixmill` as a process of its own, its output in pipes."""
    env = {**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[3])}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daemon", *args, cwd=directory, env=env, stdout=pipe, stderr=pipe
    )


def _read_all(descriptor: int, into: bytearray) -> None:
    try:
        while data := os.read(descriptor, 65536):
            into += data
    except OSError:
        pass  # the other end of a terminal is closed with an error
    finally:
        os.close(descriptor)


async def _shown(shown: bytearray, text: str) -> bool:
    return text in shown.decode("utf-8", "ignore")


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["status", "nobody"], ["watch", "b1"]])
async def test_a_reader_that_has_left_ends_a_command_without_a_word(
    redis: Redis, environment: dict[str, str], tmp_path: Path, command: list[str]
) -> None:
    installation = Installation(redis)
    await installation.batch("b1", 2)
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon", *command),
        cwd=tmp_path,
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=writing,
        stderr=writing if "nobody" in command else asyncio.subprocess.PIPE,
    )
    os.close(writing)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors or b"") == (141, b"")


async def test_explain_names_a_provider_that_cannot_be_reached(pixmill: Pixmill, redis: Redis) -> None:
    await Installation(redis).submit({"id": "j1", "prompt": "x"})
    about = {
        "provider": "openai",
        "message": "api.openai.com could not be reached (ConnectError); nothing was sent.",
    }
    await redis.set("pixmill:unreachable:default", json.dumps(about))
    assert (
        "A replica cannot reach the provider openai: api.openai.com could not be reached (ConnectError); nothing was "
        "sent. It tries again" in (await pixmill("explain", "j1")).out
    )
    assert (await pixmill("explain", "j1", "--json")).document["unreachable"] is True


async def test_an_explanation_that_redis_refuses_ends_no_watching(
    redis: Redis, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await Installation(redis).submit({"id": "j1", "prompt": "x"})
    await redis.lpush("pixmill:unreachable:default", "not a text")
    session = Session(None, redis_server.url, None, None, as_json=False)
    async with session.fleet() as client:
        view = await session.find(client, "j1")
        with pytest.raises(ResponseError):
            await redis.get("pixmill:unreachable:default")
        assert await reason_of(session, client, view) == ""
