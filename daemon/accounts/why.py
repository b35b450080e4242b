"""Says why a job or a batch waits, and until when, in one or two sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from redis.asyncio import Redis

from daemon.accounts.quota_store import quotas_in_force
from daemon.accounts.words import reason, sentence, since_s, utc
from daemon.queue.pauses import pause_of
from daemon.queue.position import Place, Positions
from daemon.settings import Settings
from limiter import Limiter
from limiter.explain import Explanation, wait_text
from pixmill.records.keys import CACHED, JOINED, LANES
from pixmill.records.records import GroupView, ItemView, Records, View

MOST_SEARCHED = 500  # members of a batch that are searched for the next due item

_ENDS = {"failed": "failed", "cancelled": "been cancelled", "succeeded": "succeeded", "expired": "expired"}
_REUSED = {
    JOINED: "An identical item makes its picture already (`cache: use`); it gets a copy when that one is done.",
    CACHED: "Its picture is there already (`cache: use`) and is copied next.",
}


class Hints(NamedTuple):
    """The choices of a person about held work, in the caller's words: send it again, or end it."""

    again: str
    end: str


@dataclass(frozen=True, slots=True)
class Why:
    """The answer: sentences for people, and the facts behind them for programs."""

    sentences: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    def after(self, first: str, **facts: Any) -> Why:
        """The same answer with another sentence in front."""
        return Why([first, *self.sentences], {**self.facts, **facts})

    def as_dict(self, view: View, ident: str) -> dict[str, Any]:
        """For JSON answers; `ident` is the id under which the caller knows the work."""
        return {"id": ident, "state": view.state, "why": self.text, **self.facts}


class Reasons:
    """Explains the work of one installation; `settings` have its routes and quotas.

    Errors: SettingsError for quotas that cannot be read, and those of the Redis client.
    """

    def __init__(self, client: Redis, records: Records, limiter: Limiter, settings: Settings) -> None:
        self._client = client
        self._records = records
        self._keys = records.keys
        self._limiter = limiter
        self._settings = settings
        self._positions = Positions(client, records.keys)

    async def why(self, view: View, hints: Hints) -> Why:
        """Why it waits: the pause, the quota, the cap, the time or the person that holds it back."""
        why = await (self._item(view, hints) if isinstance(view, ItemView) else self._group(view, hints))
        paused = await pause_of(self._client, self._records, view)
        return why if paused is None else why.after(paused.sentence, paused=paused.as_dict())

    async def _item(self, item: ItemView, hints: Hints) -> Why:
        if item.ended:
            because = f": {reason(item)}" if item.error else ""
            return Why([f"It waits for nothing; it has {_ENDS[item.state]}{because}."])
        if item.needs_person:
            decide = f"`{hints.again}` sends it again and may pay twice; `{hints.end}` ends it."
            return Why([f"It is held: {sentence(item)}.", decide])
        if item.state == "running":
            return await self._running(item)
        if item.place in _REUSED:
            return Why([_REUSED[item.place]])
        if item.due_at is not None:
            return _due(item, item.due_at)
        place = await self._positions.place(item.uid, item.route, item.lane)
        why = await self._in_line(item, place)
        group = None if item.group is None else await self._records.group(item.group)
        return why if group is None else await self._under_cap(group, why)

    async def _running(self, item: ItemView) -> Why:
        worker: Any = await self._client.hget(self._keys.item(str(item.uid)), "worker")
        where = worker.decode() if worker else "a replica"
        since = "" if item.started_at is None else f" for {wait_text(since_s(item.started_at))}"
        accepted = "the provider has accepted it and has not finished"
        doing = accepted if item.provider_task else "its call has not been answered yet"
        stopping = " A cancel was requested." if item.cancel_requested else ""
        return Why([f"It runs on {where}{since}: {doing}.{stopping}"], {"worker": where})

    async def _group(self, group: GroupView, hints: Hints) -> Why:
        counts = group.counts
        if group.ended:
            ends = f"{counts.succeeded} of {counts.total} succeeded"
            return Why([f"It waits for nothing; it is {group.state.replace('_', ' ')}, {ends}."])
        if group.needs_person:
            decide = f"`{hints.again}` sends them again and may pay twice; `{hints.end}` ends them."
            return Why([f"{counts.held} of its items are held.", decide])
        if group.parts_left:
            parts = f"{group.parts - group.parts_left} of its {group.parts} parts"
            return Why([f"{parts} have been read so far."])
        return await self._under_cap(group, await self._running_group(group))

    async def _running_group(self, group: GroupView) -> Why:
        if (first := await self._first(group)) is not None:
            return await self._in_line(*first)
        counts = group.counts
        waiting = counts.throttled + counts.retry_wait + counts.queued
        if waiting > counts.running:
            members = await self._records.members(group.gid, count=MOST_SEARCHED)
            if due := [item.due_at for item in members if item.due_at is not None]:
                when, facts = _when(min(due))
                return Why(
                    [f"{waiting} of its items wait for their time; the next one is due at {when}."], facts
                )
            for member in members:
                if member.place in _REUSED:
                    return Why([f"None of its {waiting} waiting items makes a call. {_REUSED[member.place]}"])
        return Why([f"All of its remaining items run: {counts.running} of {counts.total} items."])

    async def _first(self, group: GroupView) -> tuple[ItemView, Place] | None:
        """The batch's item with the first turn on its route, and its place."""
        # A job of several pictures stands among its tenant's single jobs.
        batch = group.id if group.kind == "batch" else ""
        for lane in LANES:
            uid = await self._positions.first_of(group.tenant, batch, group.route, lane)
            item = None if uid is None else await self._records.item(uid)
            if item is not None and item.group == group.gid:
                place = await self._positions.place(item.uid, item.route, item.lane)
                if place is not None:
                    return item, place
        return None

    async def _in_line(self, item: ItemView, place: Place | None) -> Why:
        """For a waiting item: how many items are before it, and the state of the quotas of its route."""
        quotas = await self._quotas(item.route)
        sentences = []
        if (alone := await self._waits_aside(item)) is not None:
            sentences.append(_alone(item, alone))
        if place is not None:
            beside = f" ({place.beside} more in other lanes or for their time)" if place.beside else ""
            before = f"{place.ahead} wait before it" if place.ahead else "it is the next one"
            sentences.append(f"In the {item.lane} lane of route {item.route} {before}{beside}.")
        about = await self._client.get(self._keys.unreachable(item.route))
        if about is not None:
            sentences.append(_unreachable(orjson.loads(about)))
        elif quotas is None:
            sentences.append(
                f'This configuration has no route "{item.route}", so its quotas are not known here.'
            )
        elif held_back := [one for one in quotas if one.bound is not None]:
            sentences += [f"Quota {one.state.quota}: {one.sentence}." for one in held_back]
        elif quotas:
            sentences.append("Its quotas would grant a call now; it waits for a replica with a free worker.")
        else:
            sentences.append("Its route has no quota; it waits for a replica with a free worker.")
        if item.route in self._settings.routes and (equals := self._settings.routes[item.route].any):
            sentences.append(f"The one of the routes {', '.join(equals)} with the earliest slot takes it.")
        spares = self._settings.routes[item.route].fallback if item.route in self._settings.routes else []
        if spares and alone is None:
            sentences.append(f"While its route is down, {' then '.join(spares)} may take it.")
        facts = {
            "route": item.route,
            "fallback": spares,
            "waits_for_account": alone,
            "ahead": None if place is None else place.ahead,
            "unreachable": about is not None,
            "quotas": None if quotas is None else {one.state.quota: one.bound for one in quotas},
        }
        return Why(sentences, facts)

    async def _waits_aside(self, item: ItemView) -> str | None:
        """The route whose account alone may run the item, if it waits for that one aside; else None."""
        lists: Any = await self._client.hgetall(self._keys.asides)
        for route, account in (name.decode().split("|") for name in lists):
            key = self._keys.aside(route, account)
            if route == item.route and await self._client.lpos(key, str(item.uid)) is not None:
                return str(account)
        return None

    async def _quotas(self, route: str) -> list[Explanation] | None:
        configured = self._settings.routes.get(route)
        if configured is None:
            return None
        self._settings.parsed_quotas()
        now = await quotas_in_force(self._client, self._keys, self._settings.quotas)
        routes = [self._settings.routes[name] for name in configured.any if name in self._settings.routes]
        names = dict.fromkeys(name for route in routes or [configured] for name in route.quotas)
        return await self._limiter.explain([now[name].quota for name in names])

    async def _under_cap(self, group: GroupView, why: Why) -> Why:
        """The same answer, with the batch's own cap in front if that is reached."""
        if group.max_in_flight is None:
            return why
        in_ring: Any = await self._client.hget(self._keys.group(group.gid), "in_ring")
        if group.counts.running + int(in_ring or 0) < group.max_in_flight:
            return why
        cap = f"Its batch allows itself {group.max_in_flight} at a time, and {group.counts.running} run."
        return why.after(cap)


def _due(item: ItemView, due_at: datetime) -> Why:
    when, facts = _when(due_at)
    if item.state == "queued" and not item.error:
        return Why([f"It may not start before {when}, as its `not_before` says."], facts)
    what = "The provider refused it for now" if item.state == "throttled" else "It failed"
    attempts = f"{item.attempts} of {item.max_attempts} attempts are used"
    return Why([f"{what}: {sentence(item)}.", f"It is tried again at {when}; {attempts}."], facts)


def _alone(item: ItemView, account: str) -> str:
    if item.provider_task:
        return f"Its call was sent by the account of route {account}, so it waits for that one."
    if item.spec.get("fallback") is False:
        return f"Its `fallback` is false, so it waits for its own route, {account}."
    return (
        f"It waits for its own route, {account}: a spare cannot make it, or an earlier call may be paid for."
    )


def _unreachable(about: dict[str, str]) -> str:
    return (
        f"A replica cannot reach the provider {about['provider']}: {about['message']} It tries again with one call "
        "at a time, at least every 30 s, and no attempt is lost."
    )


def _when(due_at: datetime) -> tuple[str, dict[str, Any]]:
    """A future time, in words and as a fact."""
    in_words = f"{utc(due_at)} (in {wait_text(-since_s(due_at))})"
    return in_words, {"until": due_at.isoformat(timespec="milliseconds")}
