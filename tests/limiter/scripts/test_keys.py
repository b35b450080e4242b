"""Scripts touch the keys that they were given and no others, and all of them are in one slot of a cluster."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

import limiter
import limiter.quota.limits
from limiter import (
    Bucket,
    CalendarDay,
    FixedWindow,
    Grant,
    HeaderReading,
    InFlight,
    Later,
    LuaScript,
    Quota,
    Window,
    parse_quota,
)
from limiter.quota.quota import Limit
from limiter.scripts import grants, permits, refusals, states
from tests.limiter.conftest import Rig
from tests.servers import RedisServer, free_port

S = 1_000_000
SCRIPTS = Path(limiter.__file__).parent / "scripts"
SLOT = key_slot(b"{pixmill}")

# Replaces `redis` in a script: notes the site of each call, and refuses undeclared keys.
_WATCH = """
local declared, unwatched = {}, redis
for _, key in ipairs(KEYS) do declared[key] = true end
local redis = {}
function redis.call(site, command, ...)
  unwatched.call('SADD', '{pixmill}sites', site)
  local first, last = 1, 1
  if command == 'MGET' or command == 'DEL' or command == 'EXISTS' then last = select('#', ...) end
  if command == 'TIME' or command == 'PUBLISH' then last = 0 end
  for i = first, last do
    local key = select(i, ...)
    if not declared[key] then error('UNDECLARED ' .. site .. ' ' .. command .. ' ' .. tostring(key)) end
  end
  return unwatched.call(command, ...)
end
"""
# The call of log_next_apart after 64 rounds in vain; it has the same key as the rounds.
NOT_VISITED = {"redis.call(`ZREVRANGE`, key, 0, 0, `WITHSCORES`)[2])"}
_CALL = re.compile(r"redis\.call\(")


def _watched(script: LuaScript) -> LuaScript:
    """The script with each of its calls marked by the text around it."""

    def marked(line: str) -> str:
        if line.startswith("--"):
            return line
        return _CALL.sub(lambda found: f"redis.call({_site(line, found.start())!r}, ", line)

    return LuaScript(script.name, _WATCH + "\n".join(map(marked, script.source.split("\n"))))


def _site(line: str, start: int) -> str:
    return re.sub(r"['\"\\]", "`", line[start : start + 70].strip())


def _sites() -> set[str]:
    """Every place in the sources that calls the server."""
    lines = [line for path in SCRIPTS.rglob("*.lua") for line in path.read_text().split("\n")]
    return {
        _site(line, found.start())
        for line in lines
        if not line.startswith("--")
        for found in _CALL.finditer(line)
    }


@pytest.fixture(scope="module")
def one_slot() -> Iterator[RedisServer]:
    """A node of a cluster that owns the slot of our prefix and no other: any other key is refused by the server."""
    server = RedisServer()
    server.kill()
    command = [server.binary, "--port", str(server.port), "--bind", "127.0.0.1", "--save", ""]
    command += [
        "--dir",
        str(server.directory),
        "--cluster-enabled",
        "yes",
        "--cluster-require-full-coverage",
        "no",
    ]
    # By itself it takes its port and 10,000, which need not be a port at all.
    command += ["--cluster-port", str(free_port())]
    server.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    yield server
    server.close()


@pytest.fixture
async def node(one_slot: RedisServer) -> AsyncIterator[Redis]:
    client = Redis.from_url(one_slot.url, retry=Retry(NoBackoff(), 0))
    command: Any = client.execute_command
    for _ in range(500):
        # It may be starting still, and of two tests the second one finds the slot owned.
        with suppress(redis.exceptions.ConnectionError, redis.exceptions.ResponseError):
            await command("CLUSTER", "ADDSLOTS", SLOT)
        with suppress(redis.exceptions.ConnectionError):
            if re.search(r"cluster_state\W+ok", str(await command("CLUSTER", "INFO"))):
                break
        await asyncio.sleep(0.02)
    yield client
    await client.aclose()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter.quota.limits, "EXACT_MOST", 30)
    for module in (grants, permits, refusals, states):
        for name, script in vars(module).items():
            if isinstance(script, LuaScript):
                monkeypatch.setattr(module, name, _watched(script))


def test_no_script_makes_a_key_of_its_own() -> None:
    """A key that is put together in Lua is one that a cluster cannot route."""
    for path in SCRIPTS.rglob("*.lua"):
        for number, line in enumerate(path.read_text().split("\n"), start=1):
            made = re.search(r"redis\.call\('(?!PUBLISH|TIME)[A-Z]+', *('|\")|KEYS\[[^\]]*\] *\.\.", line)
            assert made is None, f"{path.name}:{number} {line}"


async def test_every_call_of_every_script_touches_declared_keys_of_one_slot(
    node: Redis, watched: None
) -> None:
    """Everything that a limiter can do, until no place in the scripts is left that never called the server."""
    rig = Rig(node)
    rig.prefix = "{pixmill}"
    rig.limiter = limiter.Limiter(node, rig.prefix, clock=rig.time)
    with pytest.raises(redis.exceptions.ResponseError, match="slot not served"):
        await node.get("elsewhere")
    await _everything(rig)
    raw: Any = await node.smembers("{pixmill}sites")
    visited = {site.decode() for site in raw}
    # Without a test clock a script reads the time of its server; only tests have a test clock.
    real = limiter.Limiter(node, rig.prefix)
    answer = await real.acquire([Quota("real", (InFlight(1),))], holder="h", request_id="real", max_wait_s=0)
    assert isinstance(answer, Grant)
    raw = await node.smembers("{pixmill}sites")
    visited |= {site.decode() for site in raw}
    assert _sites() - visited == NOT_VISITED


async def _everything(rig: Rig) -> None:
    own = rig.limiter
    all_kinds = parse_quota(
        "all",
        {
            "requests": ["20/10s", {"rate": "900/10s", "burst": 200}, {"rate": "900/d", "reset": "UTC"}],
            "images": "200/s",
            "in_flight": 3,
            "adaptive": True,
        },
    )
    permits = [await rig.permit(all_kinds) for _ in range(3)]
    assert isinstance(await rig.request(all_kinds), Later)
    assert isinstance(await own.acquire([all_kinds], holder="other", request_id="o", max_wait_s=0), Later)
    rig.time.advance(2 * S)
    assert isinstance(await own.acquire([all_kinds], holder="third", request_id="t", max_wait_s=0), Later)
    await own.renew(permits)
    await own.submitted(permits[0], longest_s=30)
    rig.time.advance(100_000)
    for permit in permits:
        await own.retime(permit, [all_kinds])
    few = parse_quota("few", {"requests": "2/s"})
    *late, behind = [await rig.permit(few) for _ in range(3)]
    rig.time.advance(100_000)
    for permit in late:
        await own.retime(permit, [few])
    await own.widen(few, behind)
    rig.time.advance(5 * S)
    late = [await rig.permit(few)]
    rig.time.advance(1_500_000)
    for _ in range(2):
        await rig.permit(few)
    assert not await own.retime(late[0], [few])
    for readings in ([HeaderReading(remaining=1)], [HeaderReading(remaining=1, unit="images")]):
        await own.observe(all_kinds, permits[0], readings)
    await own.penalise(all_kinds, reason="429", retry_after_s=1, permit=permits[0])
    await own.penalise(all_kinds, reason="busy", kind="concurrency", permit=permits[1])
    await own.report_spread(10)
    await own.pause("all", "lunch", rig.time.now_us + S)
    await own.exhausted(all_kinds, reason="spent")
    await own.pause("all", "stop")
    await own.snapshot([all_kinds])
    await own.explain([all_kinds])
    await own.resume("all")
    await own.release(permits[0])
    await own.give_back(permits[1])
    await own.penalise(few, reason="429")
    await own.give_back(await rig.permit(few))
    await _old_and_changed(rig)
    await _windows_by_the_clock(rig)
    await _reservations(rig)
    await _line(rig)


async def _line(rig: Rig) -> None:
    """A place for which two holders stand in line, after others that are gone."""
    one = Quota("one", (InFlight(1),))
    permit = await rig.permit(one)
    for holder, wait_us in (("gone", 9 * S), ("b", 0), ("c", 0)):
        await rig.limiter.acquire([one], holder=holder, request_id=holder, max_wait_s=0)
        rig.time.advance(wait_us)
    await rig.limiter.leave_line("c", [one])
    await rig.limiter.acquire([one], holder="c", request_id="c", max_wait_s=0, ended=[permit])


async def _windows_by_the_clock(rig: Rig) -> None:
    fixed, faster = Quota("fixed", (FixedWindow(9, S),)), Quota("fixed", (FixedWindow(9, S // 2),))
    late = await rig.permit(fixed)
    rig.time.advance(S)
    await rig.limiter.retime(late, [fixed])
    await rig.permit(faster)
    await rig.permit(Quota("was", (Window(9, S),)))
    await rig.permit(Quota("was", (FixedWindow(9, S),)))
    await rig.permit(Quota("was", (Window(9, S),)))


async def _reservations(rig: Rig) -> None:
    """A reservation in each kind of book, tried once more."""
    limits: list[Limit] = [
        Window(2, S),
        Window(40, S),
        Bucket(2, S, 2),
        FixedWindow(2, S),
        CalendarDay(2, "UTC"),
    ]
    for number, limit in enumerate(limits):
        quota = Quota(f"reserved{number}", (limit,))
        for _ in range(limit.count):
            await rig.permit(quota)
        denial: Any = None
        for _ in range(3):
            denial = await rig.request(quota, max_wait_s=0, request_id=f"reserved{number}", after=denial)
        assert denial.reservation is not None


async def _old_and_changed(rig: Rig) -> None:
    """Books that are swept and folded, and limits whose period or kind was changed."""
    large = Quota("large", (Window(2000, 10 * S),))
    for _ in range(560):
        rig.time.advance(40_000)
        await rig.request(large, Quota("tokens", (Bucket(900, S, 900),)))
    for _ in range(40):
        await rig.request(Quota("log", (Window(30, S),)), costs={"requests": 30})
    learns = parse_quota("learns", {"requests": "4/s", "adaptive": True})
    await rig.limiter.penalise(learns, reason="429", retry_after_s=0, permit=await rig.permit(learns))
    rig.time.advance(9 * S)
    for _ in range(8):
        rig.time.advance(getattr(await rig.request(learns), "wait_us", 0))
    await rig.request(Quota("large", (Window(2000, 20 * S),)))
    await rig.limiter.retime(await rig.permit(large), [large])
    rig.time.advance(400 * 86_400 * S)
    await rig.request(Quota("log", (Window(30, S),)))
    await rig.request(Quota("wide", (Window(5, S), CalendarDay(9, "UTC"))))
    rig.time.advance(3 * 86_400 * S)
    await rig.request(Quota("wide", (Window(5, S), CalendarDay(9, "UTC"))))
    kinds: list[Limit] = [
        Window(20, 10 * S),
        Window(40, 10 * S),
        Bucket(20, 10 * S, 5),
        CalendarDay(90, "UTC"),
    ]
    for number, (before, after) in enumerate((a, b) for a in kinds for b in kinds if a != b):
        for limit in (before, before, after):
            await rig.request(Quota(f"kinds{number}", (limit,)))
    permit = await rig.permit(Quota("shrunk", (Window(40, S),)))
    for count in (20, 40):
        await rig.permit(Quota("shrunk", (Window(count, S),)))
    await rig.limiter.give_back(permit)


async def test_an_undeclared_key_would_be_seen(node: Redis) -> None:
    """Without this the claims above could hold because nothing is ever refused."""
    script = _watched(LuaScript("wrong", "return redis.call('GET', KEYS[1] .. ':x')"))
    with pytest.raises(redis.exceptions.ResponseError, match="UNDECLARED"):
        await script(node, ["{pixmill}a"], [])
