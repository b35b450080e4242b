"""`pixmill quotas` and `pixmill quota`: what each quota has left and what holds it back; pause one, resume it.

`pixmill quota set` has a file of its own.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.exits import ALL_WELL, FAILED, USAGE, CommandError
from daemon.cli.session import Session, command

if TYPE_CHECKING:
    from daemon.accounts.quota_store import InForce
    from daemon.client import Client
    from limiter.explain import Explanation
    from limiter.limiter import Limiter
    from limiter.quota.quota import Quota

QUOTAS_HELP = """Show each quota: its limits, what is left, what holds the next call back, and until when.

    pixmill quotas --watch
"""
PAUSE_HELP = """Stop all calls under a quota, on every replica, until it is resumed or for a time.

What runs goes on; what waits keeps its place.

    pixmill quota pause openai-main --reason "invoice dispute" --for 10min
"""
RESUME_HELP = """End a pause. A cooldown that the provider asked for stays.

    pixmill quota resume openai-main
"""
LOOK_S = 1.0  # between two looks of --watch

Name = Annotated[str, typer.Argument(metavar="NAME", help="A quota, as `pixmill quotas` names it.")]


def register(app: typer.Typer) -> None:
    app.command("quotas", help=QUOTAS_HELP)(quotas)


@command
async def quotas(
    session: Session,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
) -> int:
    if watch and session.as_json:
        raise CommandError("--json prints one document; leave out --watch.", USAGE)
    configured = session.settings.parsed_quotas()
    async with session.client() as client:
        if session.as_json:
            over = await _pauses(session, client)
            session.printer.document(
                [
                    {**as_dict(one, now), "work_paused": over.get(now.quota.name, [])}
                    for one, now in await _look(session, client)
                ]
            )
        elif not configured:
            session.printer.note("No quota is configured: nothing limits how fast calls are sent.")
        elif watch:
            await _watch(session, client)
        else:
            for line in [*await _paused_lines(client), *lines_of(await _look(session, client))]:
                session.printer.line(line)
    return ALL_WELL


@command
async def pause(
    session: Session,
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Shown to everybody who looks.")] = "",
    duration: Annotated[
        str | None, typer.Option("--for", help="Resume by itself after this time, such as 10min.")
    ] = None,
) -> int:
    from daemon.accounts.quota_store import ring
    from daemon.cli.output import seconds

    for_s = None if duration is None else duration_s(duration)
    named(session, name)
    reason = " ".join(reason.split())
    async with session.client() as client:
        until_us = None if for_s is None else await _server_us(client) + round(for_s * 1e6)
        await limiter_of(client).pause(name, reason, until_us)
        await ring(client.redis, client.keys, name)
        await _tell(client, name, reason)
    until = None if until_us is None else datetime.fromtimestamp(until_us / 1e6, UTC)
    if session.as_json:
        session.printer.document(
            {
                "quota": name,
                "paused": True,
                "reason": reason,
                "until": None if until is None else until.isoformat(timespec="milliseconds"),
            }
        )
    elif until is None or for_s is None:
        session.printer.line(f"{name}: paused, no replica sends under it")
        session.printer.note(f"resume it with: pixmill quota resume {name}")
    else:
        session.printer.line(f"{name}: paused for {seconds(for_s)}, until {until:%Y-%m-%d %H:%M:%S}Z")
    return ALL_WELL


@command
async def resume(session: Session, name: Name) -> int:
    from daemon.accounts.quota_store import ring

    named(session, name)
    async with session.client() as client:
        limiter = limiter_of(client)
        resumed = await limiter.resume(name)
        await ring(client.redis, client.keys, name)
        (now,) = await limiter.explain([(await in_force(session, client))[name].quota])
    if session.as_json:
        session.printer.document({"quota": name, "resumed": resumed})
    else:
        said = "resumed" if resumed else "nothing to resume, it was not paused"
        session.printer.line(f"{name}: {said}; {now.sentence}")
    return ALL_WELL


def limiter_of(client: Client) -> Limiter:
    """The limiter of the client's installation, to look at and to pause."""
    from limiter.limiter import Limiter

    return Limiter(client.redis, client.keys.prefix)


async def in_force(session: Session, client: Client) -> dict[str, InForce]:
    """The configured quotas with what operators have set since; raises SettingsError."""
    from daemon.accounts.quota_store import quotas_in_force

    session.settings.parsed_quotas()  # which tells every problem of the configuration at once
    return await quotas_in_force(client.redis, client.keys, session.settings.quotas)


def named(session: Session, name: str) -> Quota:
    """The configured quota of that name; the error hints at the nearest one."""
    configured: Mapping[str, Quota] = session.settings.parsed_quotas()
    if name in configured:
        return configured[name]
    near = difflib.get_close_matches(name, configured, n=1, cutoff=0.0)
    hint = f'did you mean "{near[0]}"?' if near else "none is configured."
    raise CommandError(f'There is no quota "{name}"; {hint}', FAILED, code="unknown_quota")


def lines_of(looks: Sequence[tuple[Explanation, InForce]]) -> list[str]:
    """A line for each quota."""
    return [f"{one.state.quota} ({', '.join(one.limits)}{_mark(now)}): {one.sentence}" for one, now in looks]


def as_dict(one: Explanation, now: InForce) -> dict[str, Any]:
    """An explanation for JSON answers. `set_at` is null where the configuration counts."""
    from limiter.explain import spelled

    state = one.state
    return {
        "quota": state.quota,
        "limits": list(one.limits),
        "configured": [spelled(limit) for limit in now.configured.limits],
        "set_at": now.set_at,
        "problem": now.problem,
        "units": [
            {"unit": unit.unit, "capacity": unit.capacity, "available": unit.available}
            for unit in state.units
        ],
        "in_flight": state.in_flight,
        "rate_scale": state.scale,
        "bound": one.bound,
        "next_slot_seconds": None if one.next_slot_s is None else round(one.next_slot_s, 3),
        "cooldown_seconds": round(state.cooldown_s, 3),
        "cooldown_reason": state.cooldown_reason,
        "paused": state.paused_reason is not None,
        "paused_reason": state.paused_reason,
        "pause_ends_seconds": None if one.pause_ends_s is None else round(one.pause_ends_s, 3),
        "sentence": one.sentence,
    }


def _mark(now: InForce) -> str:
    """What an operator has to do with a quota's limits, for its line."""
    from limiter.explain import spelled

    if now.problem is not None:
        return f"; as configured, because what an operator set cannot be read: {now.problem}"
    if now.set_at is None:
        return ""
    on = f" on {now.set_at[:19].replace('T', ' ')}Z" if now.set_at else ""
    return f"; set by an operator{on}, configured: {', '.join(map(spelled, now.configured.limits))}"


async def _look(session: Session, client: Client) -> list[tuple[Explanation, InForce]]:
    now = list((await in_force(session, client)).values())
    explanations = await limiter_of(client).explain([one.quota for one in now])
    return list(zip(explanations, now, strict=True))


async def _paused_lines(client: Client) -> list[str]:
    """What stops calls whatever the quotas say."""
    from daemon.queue.pauses import read_pauses

    return [pause.sentence for pause in (await read_pauses(client.redis, client.keys)).values()]


async def _pauses(session: Session, client: Client) -> dict[str, list[dict[str, Any]]]:
    """By quota, the pauses of the fleet and of routes that spend it."""
    from daemon.queue.pauses import FLEET, read_pauses

    pauses = await read_pauses(client.redis, client.keys)
    over: dict[str, list[dict[str, Any]]] = {}
    for name in session.settings.quotas:
        routes = [f"route:{key}" for key, route in session.settings.routes.items() if name in route.quotas]
        over[name] = [pauses[key].as_dict() for key in (FLEET, *routes) if key in pauses]
    return over


async def _watch(session: Session, client: Client) -> None:
    screen = _Screen() if _is_terminal() else None
    last: list[str] = []
    with screen or nullcontext():
        while True:
            lines = [*await _paused_lines(client), *lines_of(await _look(session, client))]
            if screen is not None:
                screen.show(lines)
            else:
                # In a pipe a line for each quota that changed.
                for line in lines:
                    if line not in last:
                        session.printer.line(line)
            last = lines
            await asyncio.sleep(LOOK_S)


class _Screen(AbstractContextManager["_Screen"]):
    """Lines that are replaced in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False)

    def __enter__(self) -> _Screen:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, lines: Sequence[str]) -> None:
        from rich.text import Text

        self._live.update(Text("\n".join(lines)), refresh=True)


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()


def duration_s(text: str) -> float:
    """What `--for` says; raises CommandError."""
    from daemon.settings.values import parse_duration

    problem = f'--for {text} is not a time; write one such as "30s", "10min" or "2h".'
    try:
        seconds = parse_duration(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError:
        raise CommandError(problem, USAGE) from None
    if seconds <= 0:
        raise CommandError(problem, USAGE)
    return seconds


async def _server_us(client: Client) -> int:
    seconds, micros = await client.redis.time()
    return int(seconds) * 1_000_000 + int(micros)


async def _tell(client: Client, name: str, reason: str) -> None:
    import orjson

    data = orjson.dumps({"quota": name, "kind": "operator", "message": reason})
    await client.redis.xadd(
        client.keys.events, {"type": "quota.paused", "data": data}, maxlen=100_000, approximate=True
    )
