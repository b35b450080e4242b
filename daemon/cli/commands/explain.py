"""`pixmill explain`: why a job or a batch waits, and until when, in one or two sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from redis.exceptions import RedisError

from daemon.broker.errors import CONNECTION_FAULTS
from daemon.cli.bounds import in_force, limiter_of, pause_of
from daemon.cli.following import ident_of
from daemon.cli.options import Ident
from daemon.cli.output import reason, sentence, since_s, utc
from daemon.cli.session import Session, command
from daemon.client import Client
from daemon.queue.keys import CACHED, JOINED, LANES
from daemon.queue.position import Place, Positions
from daemon.queue.records import GroupView, ItemView, View
from daemon.settings import SettingsError
from limiter.explain import Explanation, wait_text

MOST_SEARCHED = 500  # members of a batch that are searched for the next due item

_ENDS = {"failed": "failed", "cancelled": "been cancelled", "succeeded": "succeeded", "expired": "expired"}
_REUSED = {
    JOINED: "An identical item makes its picture already (`cache: use`); it gets a copy when that one is done.",
    CACHED: "Its picture is there already (`cache: use`) and is copied next.",
}


@dataclass(frozen=True, slots=True)
class Why:
    """The answer: sentences for people, and the facts behind them for programs."""

    sentences: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def after(self, first: str, **facts: Any) -> Why:
        """The same answer with another sentence in front."""
        return Why([first, *self.sentences], {**self.facts, **facts})


@command
async def explain(session: Session, ident: Ident) -> int:
    """Explain why a job or a batch is waiting, and until when.

    It names the pause, the quota, the cap or the time that holds it back.

        pixmill explain autumn-skus/sku1-main
    """
    async with session.fleet() as client:
        view = await session.find(client, ident)
        why = await _why(session, client, view, ident)
    text = " ".join(why.sentences)
    return session.printer.answer(
        {"id": ident, "state": view.state, "why": text, **why.facts}, f"{ident}: {text}"
    )


async def reason_of(session: Session, client: Client, view: View) -> str:
    """The same for a command that follows the work; empty if the quotas here cannot be read.

    Raises what an outage of Redis raises: the caller waits for its end.
    """
    try:
        return " ".join((await _why(session, client, view, ident_of(view))).sentences)
    except CONNECTION_FAULTS:
        raise
    except (SettingsError, RedisError):
        return ""


async def _why(session: Session, client: Client, view: View, ident: str) -> Why:
    if isinstance(view, ItemView):
        why = await _item(session, client, view, ident)
    else:
        why = await _group(session, client, view)
    paused = await pause_of(client, view)
    return why if paused is None else why.after(paused.sentence, paused=paused.as_dict())


async def _item(session: Session, client: Client, item: ItemView, ident: str) -> Why:
    if item.ended:
        because = f": {reason(item)}" if item.error else ""
        return Why([f"It waits for nothing; it has {_ENDS[item.state]}{because}."])
    if item.needs_person:
        again = f"`{session.hint('retry', ident, '--held')}` sends it again and may pay twice"
        return Why([f"It is held: {sentence(item)}.", f"{again}; `{session.hint('cancel', ident)}` ends it."])
    if item.state == "running":
        return await _running(client, item)
    if item.place in _REUSED:
        return Why([_REUSED[item.place]])
    if item.due_at is not None:
        return _due(item, item.due_at)
    place = await Positions(client.redis, client.keys).place(item.uid, item.route, item.lane)
    why = await _in_line(session, client, item, place)
    group = None if item.group is None else await client.records.group(item.group)
    return why if group is None else await _under_cap(client, group, why)


async def _running(client: Client, item: ItemView) -> Why:
    worker: Any = await client.redis.hget(client.keys.item(str(item.uid)), "worker")
    where = worker.decode() if worker else "a replica"
    since = "" if item.started_at is None else f" for {wait_text(since_s(item.started_at))}"
    accepted = "the provider has accepted it and has not finished"
    doing = accepted if item.provider_task else "its call has not been answered yet"
    stopping = " A cancel was requested." if item.cancel_requested else ""
    return Why([f"It runs on {where}{since}: {doing}.{stopping}"], {"worker": where})


def _due(item: ItemView, due_at: datetime) -> Why:
    when, facts = _when(due_at)
    if item.state == "queued" and not item.error:
        return Why([f"It may not start before {when}, as its `not_before` says."], facts)
    what = "The provider refused it for now" if item.state == "throttled" else "It failed"
    attempts = f"{item.attempts} of {item.max_attempts} attempts are used"
    return Why([f"{what}: {sentence(item)}.", f"It is tried again at {when}; {attempts}."], facts)


async def _group(session: Session, client: Client, group: GroupView) -> Why:
    counts = group.counts
    if group.ended:
        ends = f"{counts.succeeded} of {counts.total} succeeded"
        return Why([f"It waits for nothing; it is {group.state.replace('_', ' ')}, {ends}."])
    if group.needs_person:
        again = f"`{session.hint('retry', group.id, '--held')}` sends them again and may pay twice"
        return Why(
            [
                f"{counts.held} of its items are held.",
                f"{again}; `{session.hint('cancel', group.id)}` ends them.",
            ]
        )
    if group.parts_left:
        return Why([f"{group.parts - group.parts_left} of its {group.parts} parts have been read so far."])
    return await _under_cap(client, group, await _running_group(session, client, group))


async def _running_group(session: Session, client: Client, group: GroupView) -> Why:
    if (first := await _first(client, group)) is not None:
        return await _in_line(session, client, *first)
    counts = group.counts
    waiting = counts.throttled + counts.retry_wait + counts.queued
    if waiting > counts.running:
        members = await client.records.members(group.gid, count=MOST_SEARCHED)
        if due := [item.due_at for item in members if item.due_at is not None]:
            when, facts = _when(min(due))
            return Why([f"{waiting} of its items wait for their time; the next one is due at {when}."], facts)
        for member in members:
            if member.place in _REUSED:
                return Why([f"None of its {waiting} waiting items makes a call. {_REUSED[member.place]}"])
    return Why([f"All of its remaining items run: {counts.running} of {counts.total} items."])


async def _first(client: Client, group: GroupView) -> tuple[ItemView, Place] | None:
    """The batch's item with the first turn on its route, and its place."""
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


async def _in_line(session: Session, client: Client, item: ItemView, place: Place | None) -> Why:
    """For a waiting item: how many items are before it, and the state of the quotas of its route."""
    quotas = await _quotas(session, client, item.route)
    sentences = []
    if place is not None:
        beside = f" ({place.beside} more in other lanes or for their time)" if place.beside else ""
        before = f"{place.ahead} wait before it" if place.ahead else "it is the next one"
        sentences.append(f"In the {item.lane} lane of route {item.route} {before}{beside}.")
    about = await client.redis.get(client.keys.unreachable(item.route))
    if about is not None:
        sentences.append(_unreachable(orjson.loads(about)))
    elif quotas is None:
        sentences.append(f'This configuration has no route "{item.route}", so its quotas are not known here.')
    elif held_back := [one for one in quotas if one.bound is not None]:
        sentences += [f"Quota {one.state.quota}: {one.sentence}." for one in held_back]
    elif quotas:
        sentences.append("Its quotas would grant a call now; it waits for a replica with a free worker.")
    else:
        sentences.append("Its route has no quota; it waits for a replica with a free worker.")
    facts = {
        "route": item.route,
        "ahead": None if place is None else place.ahead,
        "unreachable": about is not None,
        "quotas": None if quotas is None else {one.state.quota: one.bound for one in quotas},
    }
    return Why(sentences, facts)


def _unreachable(about: dict[str, str]) -> str:
    return (
        f"A replica cannot reach the provider {about['provider']}: {about['message']} It tries again with one call "
        "at a time, at least every 30 s, and no attempt is lost."
    )


async def _quotas(session: Session, client: Client, route: str) -> list[Explanation] | None:
    configured = session.settings.routes.get(route)
    if configured is None:
        return None
    now = await in_force(session, client)
    return await limiter_of(client).explain([now[name].quota for name in configured.quotas])


async def _under_cap(client: Client, group: GroupView, why: Why) -> Why:
    """The same answer, with the batch's own cap in front if that is reached."""
    if group.max_in_flight is None:
        return why
    in_ring: Any = await client.redis.hget(client.keys.group(group.gid), "in_ring")
    if group.counts.running + int(in_ring or 0) < group.max_in_flight:
        return why
    cap = f"Its batch allows itself {group.max_in_flight} at a time, and {group.counts.running} run."
    return why.after(cap)


def _when(due_at: datetime) -> tuple[str, dict[str, Any]]:
    """A future time, in words and as a fact."""
    in_words = f"{utc(due_at)} (in {wait_text(-since_s(due_at))})"
    return in_words, {"until": due_at.isoformat(timespec="milliseconds")}
