"""The stream of dead letters: what it holds, by which reason, and how one is tried again or thrown away.

A dead letter keeps the fields of the original entry. One of an item that was accepted before (`poison`,
`attempts_exhausted`, `unknown_outcome`, `late_receipt`) has a record that still counts in its batch: trying it again
means that record.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from daemon import streams
from daemon.keys import Keys, Uid
from daemon.queue import Queue

PAGE = 200  # entries a read: each may be as large as an entry of the jobs stream
OF_ITEMS = frozenset({"attempts_exhausted", "late_receipt", "poison", "unknown_outcome"})
CLIPPED = frozenset({"too_large"})  # the original is not whole
_ENTRY = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)
_OWN = (b"reason", b"error", b"attempts", b"at", b"ids")

Retried = Literal["requeued", "resent", "gone", "not_kept", "not_failed"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One entry: why it ended here, whose it was, and the fields that were sent."""

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
    def may_be_sent(self) -> bool:
        """Whether the original is here as a whole: credentials are never kept, large entries only in part."""
        return b"data" in self.original and self.reason not in CLIPPED

    def as_dict(self) -> dict[str, Any]:
        """For JSON answers; the original's `data` as the text that it is."""
        return {
            "id": self.entry,
            "reason": self.reason,
            "error": self.error,
            "attempts": self.attempts,
            "at": self.at,
            "tenant": self.tenant,
            "job": self.job,
            "item": self.item,
            "batch": self.batch,
            "original": {
                name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
                for name, value in self.original.items()
            },
        }


class DeadLetters:
    """Reads `{prefix}:dead`, and carries out what people decide about it."""

    def __init__(self, client: Redis, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def newest(
        self, count: int, *, reason: str | None = None, tenant: str | None = None
    ) -> list[DeadLetter]:
        """The newest ones first, of one reason or tenant if asked."""
        found: list[DeadLetter] = []
        async for letter in self._all():
            if reason in (None, letter.reason) and tenant in (None, letter.tenant):
                found.append(letter)
                if len(found) == count:
                    break
        return found

    async def by_reason(self, *, tenant: str | None = None) -> dict[str, int]:
        """How many there are of each reason, most first; reads the whole stream."""
        counts: dict[str, int] = {}
        async for letter in self._all():
            if tenant in (None, letter.tenant):
                counts[letter.reason] = counts.get(letter.reason, 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))

    async def get(self, entry: str) -> DeadLetter | None:
        """The dead letter with this entry id."""
        if not _ENTRY.fullmatch(entry):
            return None
        fields = await streams.entry(self._client, self._keys.dead, entry)
        return _letter(entry, fields) if fields else None

    async def retry(self, letter: DeadLetter, queue: Queue) -> Retried:
        """Try it again and take it off.

        An accepted item's record is queued again (asking twice changes nothing); anything else is sent to the
        jobs stream anew, in one transaction with the removal: `gone` means that somebody else had taken it off.
        """
        if letter.reason in OF_ITEMS:
            uid = str(Uid(letter.tenant, letter.batch or "", letter.item))
            changed = await queue.retry("item", uid, ("failed", "held"))
            if changed.known:
                await self._client.xdel(self._keys.dead, letter.entry)
                return "requeued" if changed.ended_or_queued else "not_failed"
        if not letter.may_be_sent:
            return "not_kept"
        return "resent" if await self._send_again(letter) else "gone"

    async def purge(self, entries: Sequence[str]) -> int:
        """Throw dead letters away; returns how many were there."""
        return int(await self._client.xdel(self._keys.dead, *entries)) if entries else 0

    async def _send_again(self, letter: DeadLetter) -> bool:
        sent: list[bool] = []

        async def move(pipe: Any) -> None:
            sent.append(bool(await pipe.xrange(self._keys.dead, letter.entry, letter.entry)))
            pipe.multi()
            if sent[-1]:
                pipe.xadd(self._keys.jobs, dict(letter.original))
                pipe.xdel(self._keys.dead, letter.entry)

        # Watched, so that of two people who retry the same one only one sends it; asks again when others come in.
        await self._client.transaction(move, self._keys.dead)
        return sent[-1]

    async def _all(self) -> AsyncIterator[DeadLetter]:
        before = None
        while True:
            rows = await streams.newest(self._client, self._keys.dead, PAGE, before=before)
            for entry, fields in rows:
                yield _letter(entry, fields)
            if len(rows) < PAGE:
                return
            before = rows[-1][0]


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
