"""`pixmill explain`: why a job or a batch is where it is, and until when, in a sentence or two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.exits import ALL_WELL
from daemon.cli.session import Session, command
from daemon.queue.keys import CACHED, JOINED

if TYPE_CHECKING:
    from daemon.client import Client
    from daemon.queue.position import Place
    from daemon.queue.records import GroupView, ItemView
    from limiter.explain import Explanation

EXPLAIN_HELP = """Say why a job or a batch is waiting, and until when.

    pixmill explain autumn-skus/sku1-main
"""
MOST_LOOKED_AT = 500  # members of a batch that are searched for the next one that is due


@dataclass(frozen=True, slots=True)
class Why:
    """The answer: one or two sentences, and the facts behind them for programs."""

    sentences: Sequence[str]
    facts: dict[str, Any]


_REUSED = {
    JOINED: "An identical item makes its picture already (`cache: use`); it gets a copy when that one is done.",
    CACHED: "Its picture is there already (`cache: use`) and is copied next.",
}


def register(app: typer.Typer) -> None:
    app.command("explain", help=EXPLAIN_HELP)(explain)


@command
async def explain(
    session: Session,
    ident: Annotated[str, typer.Argument(metavar="ID", help="A batch, a job, or BATCH/ITEM.")],
) -> int:
    from daemon.cli.pausing import pause_of
    from daemon.queue.records import ItemView

    async with session.client() as client:
        view = await client.status(ident)
        if view is None:
            raise session.unknown(ident)
        if isinstance(view, ItemView):
            why = await _item(session, client, view, ident)
        else:
            why = await _group(session, client, view)
        paused = await pause_of(client, view)
    if paused is not None:
        why = Why([paused.sentence, *why.sentences], {**why.facts, "paused": paused.as_dict()})
    if session.as_json:
        session.printer.document(
            {"id": ident, "state": view.state, "why": " ".join(why.sentences), **why.facts}
        )
    else:
        session.printer.line(f"{ident}: {' '.join(why.sentences)}")
    return ALL_WELL


async def _item(session: Session, client: Client, item: ItemView, ident: str) -> Why:
    from daemon.cli.output import sentence

    if item.ended:
        reason = f": {sentence(item)}" if item.error else ""
        return Why([f"It waits for nothing; it has {_ENDS.get(item.state, item.state)}{reason}."], {})
    if item.needs_person:
        return Why(
            [
                f"It waits for you: {sentence(item)}.",
                f"`pixmill retry {ident} --held` sends it again and may pay twice; `pixmill cancel {ident}` ends it.",
            ],
            {},
        )
    if item.state == "running":
        return await _running(client, item)
    if (reused := _REUSED.get(item.place)) is not None:
        return Why([reused], {})
    if item.due_at is not None:
        return _due(item)
    return await _in_line(session, client, item)


async def _running(client: Client, item: ItemView) -> Why:
    worker: Any = await client.redis.hget(client.keys.item(str(item.uid)), "worker")
    where = worker.decode() if worker else "a replica"
    since = "" if item.started_at is None else f" for {_since(item.started_at)}"
    asked = " It was asked to stop." if item.cancel_requested else ""
    doing = (
        "the provider has accepted it and has not finished"
        if item.provider_task
        else "its call has not been answered yet"
    )
    return Why([f"It runs on {where}{since}: {doing}.{asked}"], {"worker": where})


def _due(item: ItemView) -> Why:
    from daemon.cli.output import sentence

    assert item.due_at is not None  # noqa: S101 - for the type checker; the caller looked
    when = f"{item.due_at:%Y-%m-%d %H:%M:%S}Z (in {_until(item.due_at)})"
    facts = {"until": item.due_at.isoformat(timespec="milliseconds")}
    if item.state == "queued" and not item.error:
        return Why([f"It may not start before {when}, as its `not_before` says."], facts)
    what = "The provider refused it for now" if item.state == "throttled" else "It failed"
    attempts = f"{item.attempts} of {item.max_attempts} attempts are used"
    return Why([f"{what}: {sentence(item)}.", f"It is tried again at {when}; {attempts}."], facts)


async def _in_line(session: Session, client: Client, item: ItemView) -> Why:
    from daemon.queue.position import Positions

    positions = Positions(client.redis, client.keys)
    place = await positions.place(item.uid, item.route, item.lane)
    group = None if item.group is None else await client.records.group(item.group)
    sentences = []
    if group is not None and (full := _cap(group, await _in_ring(client, group))):
        sentences.append(full)
    return await _waiting(session, client, item.route, item.lane, place, sentences)


async def _group(session: Session, client: Client, group: GroupView) -> Why:
    counts = group.counts
    if group.ended:
        ends = f"{counts.succeeded} of {counts.total} succeeded"
        return Why([f"It waits for nothing; it is {group.state.replace('_', ' ')}, {ends}."], {})
    if group.needs_person:
        return Why(
            [
                f"It waits for you: {counts.held} held. `pixmill retry {group.id} --held`, or `pixmill cancel`."
            ],
            {},
        )
    if group.parts_left:
        return Why(
            [f"{group.parts - group.parts_left} of its {group.parts} parts have been read so far."], {}
        )
    sentences = []
    if full := _cap(group, await _in_ring(client, group)):
        sentences.append(full)
    standing = await _first(client, group)
    if standing is not None:
        item, place = standing
        return await _waiting(session, client, item.route, item.lane, place, sentences)
    if counts.throttled + counts.retry_wait + counts.queued > counts.running:
        members = await client.records.members(group.gid, count=MOST_LOOKED_AT)
        due = sorted(item.due_at for item in members if item.due_at is not None)
        if due:
            sentences.append(
                f"{counts.queued + counts.throttled + counts.retry_wait} of its items wait for their time; "
                f"the next one is due at {due[0]:%Y-%m-%d %H:%M:%S}Z (in {_until(due[0])})."
            )
            return Why(sentences, {"until": due[0].isoformat(timespec="milliseconds")})
    sentences.append(f"All that is left of it runs: {counts.running} of {counts.total} items.")
    return Why(sentences, {})


async def _first(client: Client, group: GroupView) -> tuple[ItemView, Place] | None:
    """The batch's item whose turn comes first on its route, with its place."""
    from daemon.queue.keys import LANES
    from daemon.queue.position import Positions

    positions = Positions(client.redis, client.keys)
    # A job of several pictures stands among its tenant's single jobs.
    batch = group.id if group.kind == "batch" else ""
    for lane in LANES:
        uid = await positions.first_of(group.tenant, batch, group.route, lane)
        item = None if uid is None else await client.records.item(uid)
        if item is not None and item.group == group.gid:
            place = await positions.place(item.uid, item.route, item.lane)
            if place is not None:
                return item, place
    return None


async def _waiting(
    session: Session, client: Client, route: str, lane: str, place: Place | None, sentences: list[str]
) -> Why:
    """For what stands in line: who is before it, and what its route's quotas say."""
    quotas = await _quotas(session, client, route)
    facts: dict[str, Any] = {
        "route": route,
        "ahead": None if place is None else place.ahead,
        "quotas": None if quotas is None else {one.state.quota: one.bound for one in quotas},
    }
    if place is not None:
        beside = f" ({place.beside} more in other lanes or for their time)" if place.beside else ""
        before = f"{place.ahead} wait before it" if place.ahead else "it is the next one"
        sentences.append(f"In the {lane} lane of route {route} {before}{beside}.")
    if quotas is None:
        sentences.append(f'This configuration has no route "{route}", so its quotas are not known here.')
        return Why(sentences, facts)
    held_back = [one for one in quotas if one.bound is not None]
    if held_back:
        sentences.append(" ".join(f"Quota {one.state.quota}: {one.sentence}." for one in held_back))
    elif quotas:
        sentences.append("Its quotas would grant a call now; it waits for a replica with a free worker.")
    else:
        sentences.append("Its route has no quota; it waits for a replica with a free worker.")
    return Why(sentences, facts)


async def _quotas(session: Session, client: Client, route: str) -> list[Explanation] | None:
    from daemon.cli.quotas import in_force, limiter_of

    configured = session.settings.routes.get(route)
    if configured is None:
        return None
    now = await in_force(session, client)
    return await limiter_of(client).explain([now[name].quota for name in configured.quotas])


async def _in_ring(client: Client, group: GroupView) -> int:
    if group.max_in_flight is None:
        return 0
    waiting: Any = await client.redis.hget(client.keys.group(group.gid), "in_ring")
    return int(waiting or 0)


def _cap(group: GroupView, in_ring: int) -> str | None:
    """Whether the batch's own cap holds it back."""
    if group.max_in_flight is None or group.counts.running + in_ring < group.max_in_flight:
        return None
    return f"Its batch allows itself {group.max_in_flight} at a time, and {group.counts.running} run."


_ENDS = {"failed": "failed", "cancelled": "been cancelled", "succeeded": "succeeded", "expired": "expired"}


def _until(when: datetime) -> str:
    from limiter.explain import wait_text

    return wait_text((when - datetime.now(UTC)).total_seconds())


def _since(when: datetime) -> str:
    from limiter.explain import wait_text

    return wait_text((datetime.now(UTC) - when).total_seconds())
