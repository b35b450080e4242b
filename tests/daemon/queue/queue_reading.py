"""Reads all keys of an installation in one step, for comparison with the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from redis.asyncio import Redis

from pixmill.records.keys import Keys

# Keys of the installation or its configuration, which never expire.
FOR_GOOD = re.compile(
    r"(installation|jobs|events|dead|index|depth|tenants|ended|dirty|active|closing|delayed|expiring|progress_at)$|"
    r"(waiting|lanes|q):"
)
DATED = re.compile(r"usage:\d{4}-\d\d-\d\d$")  # these expire by their date, whatever the work does
BY_WORK = re.compile(r"(?P<kind>item|batch|members|events|ring|turns|backlog):(?P<name>.*)$", re.DOTALL)

# KEYS 1 prefix  ARGV 1 the last event that was seen, 0 for none
# Returns JSON: by key (without the prefix) its type, time to live and value, as flat as the server gives it.
_READ = """
local readers = {
  hash = function(key) return redis.call('HGETALL', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  set = function(key) return redis.call('SMEMBERS', key) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
  stream = function(key)
    local from = key == KEYS[1] .. ':events' and '(' .. ARGV[1] or '-'
    return { redis.call('XRANGE', key, from, '+'), redis.pcall('XPENDING', key, 'workers', '-', '+', 1000) }
  end,
  string = function(key) return { redis.call('GET', key) } end,
}
local all = {}
for _, key in ipairs(redis.call('KEYS', KEYS[1] .. ':*')) do
  local kind = redis.call('TYPE', key).ok
  all[string.sub(key, #KEYS[1] + 2)] = { kind, redis.call('PTTL', key), readers[kind](key) }
end
return cjson.encode(all)
"""


@dataclass
class Reading:
    """The content of Redis by its meaning. Items are named by their uid, groups by their gid."""

    records: dict[str, dict[str, str]] = field(default_factory=dict)
    groups: dict[str, dict[str, str]] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)  # of an item: delayed, backlog, ring, pending
    pending: dict[str, tuple[str, str]] = field(default_factory=dict)  # of an item: its entry and worker
    waiting: set[str] = field(default_factory=set)
    tenants: Counter[str] = field(default_factory=Counter)  # how many items of each wait
    expiring: dict[str, int] = field(default_factory=dict)
    closing: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)
    depth: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    events: list[tuple[str, dict[str, str]]] = field(default_factory=list)  # those after the last one seen
    dead: list[dict[str, str]] = field(default_factory=list)
    mortal: dict[str, bool] = field(
        default_factory=dict
    )  # of a key without its prefix: has it a time to live
    strangers: list[str] = field(default_factory=list)  # unknown keys
    torn: list[str] = field(
        default_factory=list
    )  # ready streams whose entries are not those of ring and group

    def stand(self, uid: str, place: str) -> None:
        self.places.setdefault(uid, []).append(place)


async def read_all(redis: Redis, keys: Keys, seen_event: str = "0") -> Reading:
    """One reading of a single moment."""
    client: Any = redis
    text = await client.eval(_READ, 1, keys.prefix, seen_event)
    found = orjson.loads(text.decode("utf-8", "replace"))  # dead letters keep what was no text
    reading = Reading(mortal={name: ttl >= 0 for name, (_, ttl, _) in found.items()})
    for name, (_, _, value) in found.items():
        _sort_in(reading, name, value, found)
    return reading


def _sort_in(reading: Reading, name: str, value: Any, found: dict[str, Any]) -> None:
    kind, _, rest = name.partition(":")
    if kind == "q":
        _read_ready_stream(reading, rest, value, found.get(f"ring:{rest}"))
    elif (read := _READERS.get(kind)) and (rest or kind in _SINGLE):
        read(reading, rest, value)
    elif not (FOR_GOOD.match(name) or BY_WORK.match(name) or (DATED.match(name) and reading.mortal[name])):
        reading.strangers.append(name)


def _read_record(reading: Reading, uid: str, value: Any) -> None:
    reading.records[uid] = _mapping(value)


def _read_group(reading: Reading, gid: str, value: Any) -> None:
    reading.groups[gid] = _mapping(value)


def _read_backlog(reading: Reading, _: str, value: Any) -> None:
    for uid in value:
        reading.stand(uid, "backlog")


def _read_ring(reading: Reading, _: str, value: Any) -> None:
    for uid in _mapping(value).values():
        reading.stand(uid, "ring")


def _read_delayed(reading: Reading, _: str, value: Any) -> None:
    for uid in _mapping(value):
        reading.stand(uid, "delayed")


def _read_waiting(reading: Reading, _: str, value: Any) -> None:
    reading.waiting |= set(_mapping(value))


def _read_tenants(reading: Reading, _: str, value: Any) -> None:
    reading.tenants = _counter(value)


def _read_expiring(reading: Reading, _: str, value: Any) -> None:
    reading.expiring = {uid: int(us) for uid, us in _mapping(value).items()}


def _read_closing(reading: Reading, _: str, value: Any) -> None:
    reading.closing = set(_mapping(value))


def _read_active(reading: Reading, _: str, value: Any) -> None:
    reading.active = set(_mapping(value))


def _read_depth(reading: Reading, _: str, value: Any) -> None:
    reading.depth = _counter(value)


def _read_ended(reading: Reading, _: str, value: Any) -> None:
    reading.ended = _counter(value)


def _read_dead(reading: Reading, _: str, value: Any) -> None:
    reading.dead = [fields for _, fields in _entries(value)]


def _read_events(reading: Reading, batch: str, value: Any) -> None:
    if not batch:
        reading.events = list(_entries(value))


_SINGLE: dict[str, Callable[[Reading, str, Any], None]] = {
    "delayed": _read_delayed,
    "expiring": _read_expiring,
    "closing": _read_closing,
    "active": _read_active,
    "depth": _read_depth,
    "ended": _read_ended,
    "dead": _read_dead,
    "tenants": _read_tenants,
    "events": _read_events,
}
_READERS = {
    **_SINGLE,
    "item": _read_record,
    "batch": _read_group,
    "backlog": _read_backlog,
    "ring": _read_ring,
    "waiting": _read_waiting,
}


def _read_ready_stream(reading: Reading, place: str, value: Any, ring: Any) -> None:
    """The entries of a ready stream are exactly what is pending and what stands in the ring."""
    entries = {entry: fields["u"] for entry, fields in _entries(value)}
    pending = value[1] if isinstance(value[1], list) else []  # a mapping is an error: there is no group yet
    for entry, worker, *_ in pending:
        uid = entries.pop(entry, "an entry that was deleted")
        reading.stand(uid, "pending")
        reading.pending[uid] = (entry, worker)
    if sorted(entries.values()) != sorted(_mapping(ring[2]).values() if ring else ()):
        reading.torn.append(place)


def _counter(value: Any) -> Counter[str]:
    return Counter({name: int(count) for name, count in _mapping(value).items() if int(count)})


def _entries(value: Any) -> Iterator[tuple[str, dict[str, str]]]:
    for entry, fields in value[0]:
        yield entry, _mapping(fields)


def _mapping(flat: Sequence[str]) -> dict[str, str]:
    """Pairs, as the server lists them one after the other."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
