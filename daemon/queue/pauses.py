"""Pauses that operators set on the fleet, a route or a batch.

A pause stops new calls. Running items go on and are polled. Waiting items keep their place and their attempts, and may
expire. Pauses of the fleet and of routes are in the hash `PREFIX:paused` (worker/pause_book.py). A batch's pause is in
its record; the scripts then park its items as under `max_in_flight`.
The limiter keeps pauses of an account (`pixmill quota pause`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from redis.asyncio import Redis

from daemon.queue.steps import Steps
from limiter.explain import wait_text
from pixmill.records.keys import Keys
from pixmill.records.records import GroupView, Records, View

Scope = Literal["fleet", "route", "batch"]
FLEET = "fleet"


@dataclass(frozen=True, slots=True)
class Pause:
    """One pause as it was read. It ends in `ends_s` seconds, or with a resume if that is None."""

    scope: Scope
    name: str
    reason: str = ""
    ends_s: float | None = None

    @property
    def bound(self) -> str:
        """For progress events and answers, beside `quota:NAME.UNIT`."""
        return f"paused:{self.scope}"

    @property
    def sentence(self) -> str:
        """The scope, the reason and the end of the pause, as one sentence."""
        what = {"fleet": "The whole fleet", "route": f"Route {self.name}", "batch": "This batch"}[self.scope]
        why = f" ({self.reason})" if self.reason else ""
        ends = "until it is resumed" if self.ends_s is None else f"for another {wait_text(self.ends_s)}"
        return f"{what} is paused{why}, {ends}."

    def as_dict(self) -> dict[str, Any]:
        """For JSON answers."""
        ends_s = None if self.ends_s is None else round(self.ends_s, 3)
        reason, by = unsigned(self.reason)
        return {
            "scope": self.scope,
            "name": self.name,
            "reason": reason,
            "paused_by": by,
            "ends_seconds": ends_s,
        }


_SIGNED = re.compile(r"(.*?) ?\(by ([A-Za-z0-9._-]{1,64})\)", re.DOTALL)


def signed(reason: str, by: str | None) -> str:
    """The reason of a pause, with the name of the key that paused; None: nobody's key."""
    return reason if by is None else f"{reason} (by {by})".strip()


def unsigned(reason: str) -> tuple[str, str | None]:
    """The reason, and who paused, None where it is not known. The last signature counts: `signed` writes it."""
    found = _SIGNED.fullmatch(reason)
    return (reason, None) if found is None else (found[1], found[2])


async def pause(
    client: Redis, keys: Keys, scope: Scope, name: str = "", *, reason: str = "", for_s: float | None = None
) -> Literal["ok", "unknown", "ended"]:
    """Pause, and ring the bell. `name` is a route's name or a batch's gid.

    A batch stays paused until a resume and ignores `for_s`. Only a batch can be `unknown` or `ended`.
    """
    length_us = None if for_s is None else round(for_s * 1e6)
    given = {"scope": scope, "name": name, "reason": orjson.dumps(reason), "length_us": length_us}
    reply: Literal["ok", "unknown", "ended"] = (await Steps(client, keys.prefix)("pause", **given)).decode()
    return reply


async def resume(
    client: Redis, keys: Keys, scope: Scope, name: str = ""
) -> Literal["resumed", "nothing", "unknown"]:
    """End a pause, and ring the bell; `nothing` if there was none."""
    reply: Literal["resumed", "nothing", "unknown"] = (
        await Steps(client, keys.prefix)("resume", scope=scope, name=name)
    ).decode()
    return reply


async def read_pauses(client: Redis, keys: Keys) -> dict[str, Pause]:
    """The pauses in force: the fleet's under `fleet`, a route's under `route:NAME`."""
    pipe = client.pipeline(transaction=True)
    pipe.time()
    pipe.hgetall(keys.paused)
    (seconds, micros), fields = await pipe.execute()
    now_us = int(seconds) * 1_000_000 + int(micros)
    read = {name.decode(): _pause(name.decode(), value.decode(), now_us) for name, value in fields.items()}
    return _holding(read)


def pause_over(pauses: Mapping[str, Pause], route: str) -> Pause | None:
    """The pause that holds a route back: the fleet's, else its own."""
    return pauses.get(FLEET) or pauses.get(f"route:{route}")


async def pause_of(client: Redis, records: Records, view: View) -> Pause | None:
    """The pause over a batch or a job that has not ended: its own, the fleet's or its route's."""
    if view.ended:
        return None
    group: View | None = view
    if not isinstance(view, GroupView):
        group = await records.group(view.group) if view.group is not None else None
    if isinstance(group, GroupView) and group.paused is not None:
        return Pause("batch", group.id, group.paused)
    return pause_over(await read_pauses(client, records.keys), view.route)


def _holding(pauses: Mapping[str, Pause]) -> dict[str, Pause]:
    return {name: pause for name, pause in pauses.items() if pause.ends_s is None or pause.ends_s > 0}


def _pause(field: str, value: str, now_us: int) -> Pause:
    ends, _, reason = value.partition(" ")
    scope, _, name = field.partition(":")
    ends_s = (int(ends) - now_us) / 1e6 if ends else None
    return Pause("route" if scope == "route" else "fleet", name, orjson.loads(reason), ends_s)
