"""Leaders, followers and copies of identical items are those of a model, after any steps in any order.

The model is the promise of docs/producing.md, in plain lists. Each step runs on both, with a real server.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Cancelled, Failed, Held, Missed, Outcome, Released, Succeeded, Throttled
from pixmill.records.keys import CACHED, JOINED, Uid
from tests.daemon.harness import Installation

FAULT = {"kind": "provider_fault", "message": "It failed.", "charged": "maybe", "retryable": True}
REFUSAL = {"kind": "moderation_output", "message": "Not this.", "charged": "maybe", "retryable": False}
ENDS: dict[str, Outcome] = {
    "succeeds": Succeeded({"images": [], "attempts": 1}),
    "fails": Failed(FAULT),
    "is refused": Failed(REFUSAL),
    "is held": Held(FAULT),
    "stops": Cancelled(),
    "is throttled": Throttled(FAULT, 0),
    "is released": Released(),
}
RUNS_ON = {"is throttled", "is released"}
KINDS = (
    ("default", "x"),
    ("default", "y"),
    ("anna", "x"),
)  # items are identical by tenant and prompt
STATES = (
    "queued",
    "throttled",
    "retry_wait",
    "running",
    "held",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
)


@dataclass
class Flight:
    """One tenant's identical items. Places: line (queued like any item), call (running), wait, copy, ended.

    `due`: something happened since the last look. `refused` have a refusal that came while they waited.
    """

    places: dict[str, str] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    leader: str | None = None
    due: bool = False
    refused: set[str] = field(default_factory=set)
    picture: bool = False

    def arrive(self, item: str, mode: str) -> None:
        self.modes[item] = mode
        self.refused.discard(item)
        self._queue(item)

    def _queue(self, item: str) -> None:
        joins = self.modes[item] == "use" and self.leader is not None
        self.places[item] = "copy" if self.has_answer(item) else "wait" if joins else "line"

    def has_answer(self, item: str) -> bool:
        """Whether the item needs no call of its own."""
        return self.modes[item] == "use" and (self.picture or item in self.refused)

    def claimed(self, items: list[str], joined: set[str], copied: set[str], *, all_were: bool) -> None:
        """Those in line whose turn came: `items` run, in the order of their claims; others wait or are copied."""
        line = self.at("line")
        assert {*items, *joined, *copied} <= line
        assert not all_were or {*items, *joined, *copied} == line
        assert copied == {item for item in {*items, *joined, *copied} if self.has_answer(item)}
        assert all(self.modes[item] == "use" for item in joined), "a refresh waits for nobody"
        alone = [item for item in items if self.modes[item] == "use"]
        assert len(alone) <= 1, "one is made, the others wait for it"
        assert not alone or (self.leader is None and items[0] == alone[0])
        for item in items:
            self.places[item] = "call"
            self.leader = self.leader or item
        self.places |= dict.fromkeys(joined, "wait") | dict.fromkeys(copied, "copy")

    def ends(self, item: str, how: str) -> None:
        led = self.leader == item
        made = self.places[item] == "call" and how == "succeeds"
        self.places[item] = "ended"
        if led and how == "is refused":
            self.refused |= {uid for uid, place in self.places.items() if place != "ended"}
        self.picture = self.picture or made
        self.leader = None if led else self.leader
        self.due = self.due or led or made

    def runs_on(self, item: str) -> None:
        """It waits again, and no longer leads."""
        if self.leader == item:
            self.leader, self.due = None, True
        self.arrive(item, self.modes[item])

    def at(self, place: str) -> set[str]:
        return {uid for uid, its in self.places.items() if its == place}

    @property
    def in_line(self) -> set[str]:
        """Those in line that would take another item's picture."""
        return {uid for uid in self.at("line") if self.modes[uid] == "use"}

    def looks(self) -> None:
        """If the flight is due, those that wait, and those in line with an answer, are queued where they belong."""
        answered = {item for item in self.in_line if self.has_answer(item)}
        for item in answered | self.at("wait") if self.due else ():
            self._queue(item)
        self.due = False

    def misses(self, item: str) -> None:
        self.picture = False
        self.arrive(item, "use")


class Both:
    """The model and the server; every step runs on both."""

    def __init__(self, redis: Redis) -> None:
        self.real = Installation(redis)
        self.flights = {kind: Flight() for kind in KINDS}
        self.of: dict[str, tuple[str, str]] = {}
        self.claims: dict[str, Claimed] = {}

    def those(self, *places: str) -> list[str]:
        return [uid for uid, kind in self.of.items() if self.flights[kind].places[uid] in places]

    async def arrive(self, kind: tuple[str, str], mode: str) -> None:
        tenant, prompt = kind
        uid = str(Uid(tenant, "b", f"i{len(self.of):02}"))
        self.of[uid] = kind
        item = {"id": Uid.parse(uid).item, "prompt": prompt, "cache": mode}
        payload = {"id": "b", "tenant": tenant, "items": [item], "part": len(self.of), "parts": 1000}
        await self.real.submit(payload, type="pixmill.batch.v1")
        self.flights[kind].arrive(uid, mode)

    async def claim(self, most: int = 100) -> None:
        claim = await self.real.queue.claim("default", most, queues=("normal",))
        self.claims |= {item.uid: item for item in claim.items}
        claimed = [item.uid for item in claim.items]
        for kind, flight in self.flights.items():
            places = {uid: (await self.real.record(uid))["place"] for uid in flight.at("line")}
            flight.claimed(
                [uid for uid in claimed if self.of[uid] == kind],
                {uid for uid, place in places.items() if place == JOINED},
                {uid for uid, place in places.items() if place == CACHED},
                all_were=len(claimed) < most,
            )

    async def claim_copies(self) -> None:
        claim = await self.real.queue.claim("default", 100, queues=(CACHED,))
        self.claims |= {item.uid: item for item in claim.items}

    async def members(self, kind: tuple[str, str]) -> list[tuple[str, float]]:
        """The members of these items' flight, in the order of their scores."""
        uids = [uid for uid, its in self.of.items() if its == kind]
        if not uids:
            return []
        flight = (await self.real.record(uids[0]))["flight"]
        key = self.real.keys.flight(*flight.split("/"))
        return [
            (uid.decode(), score) for uid, score in await self.real.redis.zrange(key, 0, -1, withscores=True)
        ]

    async def end_call(self, uid: str, how: str) -> None:
        assert await self.real.queue.settle(self.claims.pop(uid), ENDS[how]) != "lost"
        flight = self.flights[self.of[uid]]
        if how in RUNS_ON:
            flight.runs_on(uid)
        else:
            flight.ends(uid, how)

    async def end_copy(self, uid: str, *, gone: bool) -> None:
        await self.claim_copies()
        flight, item = self.flights[self.of[uid]], self.claims.pop(uid)
        answer = await self.real.queue.answer(item)
        assert (bool(answer.entry), bool(answer.refusal)) == (
            flight.picture,
            not flight.picture and uid in flight.refused,
        )
        if answer.entry and not gone:
            source = orjson.loads(answer.entry)["from"]
            assert self.of[source] == self.of[uid], (
                "nobody's picture but that of an identical item of the tenant"
            )
            await self.real.queue.settle(item, ENDS["succeeds"])
            flight.ends(uid, "succeeds")
        elif answer.refusal and not answer.entry:
            await self.real.queue.settle(item, ENDS["is refused"])
            flight.ends(uid, "is refused")
        else:
            await self.real.queue.settle(item, Missed(answer.entry))
            flight.misses(uid)

    async def cancel(self, uid: str) -> None:
        if uid not in self.claims:
            await self.real.orders.cancel("item", uid, ["queued", "throttled", "retry_wait"])
            self.flights[self.of[uid]].ends(uid, "stops")

    async def retry(self, uid: str) -> None:
        if await self.state(uid) == "succeeded":
            return
        await self.real.orders.retry("item", uid, ["failed", "cancelled", "held"])
        flight = self.flights[self.of[uid]]
        flight.arrive(uid, flight.modes[uid])

    async def crash(self) -> None:
        """All workers go silent; one takes everything over, and the old ones may settle nothing."""
        for lane in ("normal", CACHED):
            page = await self.real.queue.reclaim("default", lane, lease_s=0, cursor="0-0", most_crashes=99)
            for item in page.items:
                zombie = self.claims[item.uid]
                assert await self.real.queue.settle(zombie, ENDS["succeeds"]) == "lost"
                self.claims[item.uid] = item

    async def look(self) -> None:
        while (await self.real.queue.due())[0]:
            pass
        for flight in self.flights.values():
            flight.looks()

    async def state(self, uid: str) -> str:
        return (await self.real.record(uid))["state"]

    async def check(self) -> None:
        recorded = {"wait": JOINED, "copy": CACHED, "line": "queue", "call": "queue"}
        for uid, kind in self.of.items():
            record, place = await self.real.record(uid), self.flights[kind].places[uid]
            ended = record["state"] in ("succeeded", "failed", "cancelled", "held")
            assert ended == (place == "ended"), (uid, place, record["state"])
            if not ended:
                assert record["place"] == recorded[place], (uid, place, record["state"])
        for kind, flight in self.flights.items():
            members = await self.members(kind)
            assert [uid for uid, score in members if score == 0] == [flight.leader] * bool(flight.leader)
            assert {uid for uid, score in members if score > 0} == flight.at("wait")
            assert {uid for uid, score in members if score < 0} == flight.in_line
            assert not flight.at("wait") or flight.leader or flight.due, "nobody waits for nobody"

    async def check_counts(self) -> None:
        for tenant in {kind[0] for kind in self.of.values()}:
            group = await self.real.group(f"{tenant}/b")
            assert sum(int(group[state]) for state in STATES) == int(group["total"])
        depth = {
            name: int(count) for name, count in (await self.real.redis.hgetall(self.real.keys.depth)).items()
        }
        open_ = [uid for uid in self.of if await self.state(uid) not in ("succeeded", "failed", "cancelled")]
        assert sum(depth.values()) == len(open_)
        assert min(depth.values(), default=0) >= 0

    async def finish(self) -> None:
        """All remaining items get their pictures; items of `cache: use` need at most one more call."""
        calls = dict.fromkeys(KINDS, 0)
        while left := self.those("line", "call", "copy", "wait"):
            await self.look()
            await self.check()
            uid = next((uid for uid in left if self.flights[self.of[uid]].places[uid] != "wait"), left[0])
            flight = self.flights[self.of[uid]]
            if flight.places[uid] == "line":
                await self.claim()
            elif flight.places[uid] == "call":
                calls[self.of[uid]] += flight.modes[uid] == "use"
                await self.end_call(uid, "succeeds")
            else:
                await self.end_copy(uid, gone=False)
            await self.check()
        assert max(calls.values()) <= 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["arrive"] * 4,
                *["claim", "claim one"] * 2,
                *["look"] * 3,
                *["end call"] * 4,
                *["end copy"] * 2,
                "lose",
                "cancel",
                "cancel",
                "retry",
                "crash",
            ]
        ),
        st.sampled_from(KINDS),
        st.sampled_from(["use", "use", "use", "refresh"]),
        st.sampled_from(list(ENDS)),
        st.integers(0, 99),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
async def test_leaders_followers_and_copies_are_those_of_the_model(
    redis: Redis, steps: list[tuple[str, tuple[str, str], str, str, int]]
) -> None:
    await redis.flushall()
    both = Both(redis)
    for what, kind, mode, how, which in steps:
        if what == "arrive":
            await both.arrive(kind, mode)
        elif what == "claim":
            await both.claim()
        elif what == "claim one":
            await both.claim(1)
        elif what == "look":
            await both.look()
        elif what == "crash":
            await both.claim()
            await both.claim_copies()
            await both.crash()
        else:
            places = {"end call": ["call"], "end copy": ["copy"], "lose": ["copy"], "retry": ["ended"]}
            if not (choice := both.those(*places.get(what, ["line", "call", "wait", "copy"]))):
                continue
            uid = choice[which % len(choice)]
            if what == "end call":
                await both.end_call(uid, how)
            elif what in ("end copy", "lose"):
                await both.end_copy(uid, gone=what == "lose")
            elif what == "cancel":
                await both.cancel(uid)
            else:
                await both.retry(uid)
        await both.check()
    if both.of:
        await both.check_counts()
        await both.finish()
        await both.check_counts()
