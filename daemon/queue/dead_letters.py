"""Reads the stream of dead letters, and retries or purges its entries.

A dead letter keeps the fields of the original entry. The reasons `poison`, `attempts_exhausted`, `unknown_outcome`
and `late_receipt` concern an accepted item. Its record still counts in its batch, so a retry queues that record.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from daemon.queue.orders import Orders
from daemon.queue.outbox import Outbox
from pixmill.broker import streams
from pixmill.contract import Place, place_of
from pixmill.records.keys import Keys, Uid
from pixmill.redaction import redact

PAGE = 50  # entries a read: each may be as large as an entry of the jobs stream
MOST = 100_000  # about as many are kept (scripts/include/events.lua); the oldest go first
CALLBACK_FAILED = "callback_failed"
OF_ITEMS = frozenset({"attempts_exhausted", "late_receipt", "poison", "unknown_outcome"})
CLIPPED = frozenset({"too_large"})  # only a part of the original is kept
_ENTRY = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
_OWN = (b"reason", b"error", b"attempts", b"at", b"ids")

Retried = Literal["requeued", "resent", "gone", "not_kept", "not_failed", "ended", "no_record"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry: the reason, the tenant and ids of the work, and the original's fields."""

    entry: str
    reason: str
    error: dict[str, Any]
    attempts: int
    at: str
    tenant: str
    job: str
    item: str
    batch: str | None
    original: Mapping[bytes, bytes] = field(repr=False)

    @property
    def sentence(self) -> str:
        return str(self.error.get("message", "")) or self.reason

    @property
    def field_path(self) -> str | None:
        """The path of the wrong field, such as `items.3.size`; None if the error concerns the whole entry."""
        named = self.error.get("field")
        return named if isinstance(named, str) else None

    @property
    def place(self) -> Place | None:
        """The position of that field in the original, and its value if that may be shown."""
        data = self.original.get(b"data")
        if self.field_path is None or data is None or not self.may_be_sent:
            return None
        return place_of(data, self.field_path)

    @property
    def may_be_sent(self) -> bool:
        """Whether the original is here as a whole: credentials are never kept, large entries only in part."""
        return b"data" in self.original and self.reason not in CLIPPED

    def as_dict(self) -> dict[str, Any]:
        """The dead letter for JSON answers. The original's fields are text, with possible credentials redacted."""
        place = self.place
        return {
            "id": self.entry,
            "reason": self.reason,
            "field": self.field_path,
            "place": place.as_dict() if place is not None else None,
            "error": self.error,
            "attempts": self.attempts,
            "at": self.at,
            "tenant": self.tenant,
            "job": self.job,
            "item": self.item,
            "batch": self.batch,
            "original": {
                name.decode("utf-8", "replace"): redact(value.decode("utf-8", "replace"), limit=len(value))
                for name, value in self.original.items()
            },
        }


class DeadLetters:
    """Reads `{prefix}:dead`, and carries out operators' orders on its entries."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def newest(
        self,
        count: int,
        *,
        reason: str | None = None,
        tenant: str | None = None,
        most_bytes: int | None = None,
    ) -> list[DeadLetter]:
        """Up to `count` dead letters, newest first; only those of `reason` and `tenant` if given.

        The list ends early with the letter whose original exceeds `most_bytes` for all of them.
        """
        found: list[DeadLetter] = []
        size = 0
        async for letter in self._newest_first():
            if reason in (None, letter.reason) and tenant in (None, letter.tenant):
                found.append(letter)
                size += sum(map(len, letter.original.values()))
                if len(found) == count or (most_bytes is not None and size > most_bytes):
                    break
        return found

    async def oldest_first(
        self,
        *,
        reason: str | None = None,
        tenant: str | None = None,
        older_than_s: float = 0.0,
        since_ms: int = 0,
    ) -> AsyncIterator[DeadLetter]:
        """The present dead letters of a reason and tenant, if given, at least `older_than_s` old by the server's clock.

        `since_ms` is the time of the earliest one, by that clock. Later ones than the present are left out, so a caller
        that retries each of them sees none twice.
        """
        end, last = _order(await streams.tail(self._client, self._keys.dead)), f"{since_ms}-0"
        if older_than_s:
            seconds, micros = await self._client.time()
            end = min(end, (int(seconds) * 1000 + int(micros) // 1000 - round(older_than_s * 1000), 0))
        while True:
            rows = await streams.after(self._client, self._keys.dead, last, PAGE)
            for entry, fields in rows:
                last = entry
                if _order(entry) > end:
                    return
                letter = _letter(entry, fields)
                if reason in (None, letter.reason) and tenant in (None, letter.tenant):
                    yield letter
            if len(rows) < PAGE:
                return

    async def by_reason(self, *, tenant: str | None = None) -> dict[str, int]:
        """How many there are of each reason, most first; reads the whole stream."""
        counts: dict[str, int] = {}
        async for letter in self._newest_first():
            if tenant in (None, letter.tenant):
                counts[letter.reason] = counts.get(letter.reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))

    async def get(self, entry: str) -> DeadLetter | None:
        """The dead letter with this entry id."""
        if not _ENTRY.fullmatch(entry):
            return None
        fields = await streams.entry(self._client, self._keys.dead, entry)
        return _letter(entry, fields) if fields else None

    async def retry(self, letter: DeadLetter) -> Retried:
        """Retry the work and remove the dead letter, in one step; repeated or concurrent calls do it once.

        An accepted item's record is queued again. `no_record`: that record has expired or was deleted, and what was
        deleted must not come back. Any other original is sent to the jobs stream again, where its id keeps it from
        becoming work twice. `gone`: the dead letter had been removed before.
        """
        orders = Orders(self._client, self._keys)
        if letter.reason in OF_ITEMS:
            uid = str(Uid(letter.tenant, letter.batch or "", letter.item))
            match await orders.retry_letter(uid, letter.entry, _states_of(letter.reason)):
                case "queued":
                    return "requeued"
                case "unchanged":
                    return "not_failed"
                case "gone":
                    return "gone"
                case "unknown":
                    return "no_record"
        if letter.reason == CALLBACK_FAILED and (message := letter.original.get(b"callback")) is not None:
            return await self._call_back_again(message.decode(), letter)
        if not letter.may_be_sent:
            return "not_kept"
        return "resent" if await orders.resend(letter.entry, len(_OWN)) else "gone"

    async def _call_back_again(self, message: str, letter: DeadLetter) -> Retried:
        again = await Outbox(self._client, self._keys.prefix).again(message, letter.entry)
        return "resent" if again else "ended"

    async def purge(self, entries: Sequence[str]) -> int:
        """Delete dead letters; returns how many there were."""
        return int(await self._client.xdel(self._keys.dead, *entries)) if entries else 0

    async def _newest_first(self) -> AsyncIterator[DeadLetter]:
        before = None
        while True:
            rows = await streams.newest(self._client, self._keys.dead, PAGE, before=before)
            for entry, fields in rows:
                yield _letter(entry, fields)
            if len(rows) < PAGE:
                return
            before = rows[-1][0]


def _states_of(reason: str) -> tuple[str, ...]:
    """The states in which a retry queues the item. A late task is polled even if the item was cancelled or expired."""
    ended = ("failed", "held")
    return (*ended, "cancelled", "expired") if reason == "late_receipt" else ended


def _order(entry: str) -> tuple[int, int]:
    millis, _, number = entry.partition("-")
    return int(millis), int(number)


def _letter(entry: str, fields: dict[bytes, bytes]) -> DeadLetter:
    ids = _object(fields.get(b"ids"))
    return DeadLetter(
        entry=entry,
        reason=fields.get(b"reason", b"unknown").decode("utf-8", "replace"),
        error=_object(fields.get(b"error")),
        attempts=int(fields.get(b"attempts", b"0")),
        at=fields.get(b"at", b"").decode("utf-8", "replace"),
        tenant=str(ids.get("tenant", "default")),
        job=str(ids.get("job", "")),
        item=str(ids.get("item", "")),
        batch=ids.get("batch") or None,
        original={name: value for name, value in fields.items() if name not in _OWN},
    )


def _object(text: bytes | None) -> dict[str, Any]:
    loaded = orjson.loads(text) if text else {}
    return loaded if isinstance(loaded, dict) else {}
