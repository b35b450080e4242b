"""Pages of long lists: cursors are opaque to callers, and each is checked when it comes back."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

import orjson

from daemon.gateway.answering.problems import Problem, bad_parameter
from daemon.gateway.gateway import Gateway
from pixmill.broker.streams import ranked
from pixmill.records.keys import Uid
from pixmill.records.records import GroupView, ItemView

LOOKED_AT = 500  # records a round trip
BATCH, ITEM = "b", "i"  # the lists, so that a cursor of one is none of the other


async def batches_of(
    here: Gateway, tenant: str, *, state: str | None, cursor: str | None, limit: int
) -> tuple[list[GroupView], str | None]:
    """A page of a tenant's batches, newest first, and the next page's cursor. Raises Problem for a wrong cursor."""
    after = None if cursor is None else _batch_cursor(cursor)
    found: list[GroupView] = []
    places: list[tuple[int, str]] = []
    while len(found) <= limit:
        rows, is_last = await _newest(here, after)
        names = [(us, name) for us, name in rows if name.startswith(f"{tenant}/") and name.count("/") == 1]
        views = await here.records.groups([name for _, name in names]) if names else []
        for place, view in zip(names, views, strict=True):
            if view is not None and state in (None, view.state):
                found.append(view)
                places.append(place)
        if is_last:
            break
        after = rows[-1]
    more = len(found) > limit
    return found[:limit], _cursor(BATCH, *places[limit - 1]) if more else None


async def items_of(
    here: Gateway, batch: GroupView, *, state: str | None, kind: str | None, cursor: str | None, limit: int
) -> tuple[list[ItemView], str | None]:
    """A page of a batch's items in the order of acceptance, and the next page's cursor. Raises Problem as above."""
    rank = 0 if cursor is None else _item_cursor(cursor)
    found: list[ItemView] = []
    # Without a filter nearly each record is shown: none is read beyond the one that tells whether a page follows.
    most = LOOKED_AT if state or kind else min(LOOKED_AT, limit + 1)
    while True:
        uids = await ranked(here.redis, here.keys.members(batch.gid), rank, most)
        for at, view in enumerate(await here.records.items(uids) if uids else [], rank):
            if view is None or state not in (None, view.state) or kind not in (None, kind_of(view)):
                continue
            if len(found) == limit:
                return found, _cursor(ITEM, at)
            found.append(view)
        if len(uids) < most:
            return found, None
        rank, most = rank + len(uids), LOOKED_AT


async def chosen(
    here: Gateway,
    batch: GroupView,
    states: Sequence[str],
    kinds: Sequence[str] | None,
    items: Sequence[str] | None,
) -> list[ItemView]:
    """A batch's items in one of `states` that fit `kinds` and `items`, where these are given."""
    if items is None:
        views = await here.records.all_members(batch.gid)
    else:
        names = [str(Uid(batch.tenant, batch.id, item)) for item in dict.fromkeys(items)]
        views = [view for view in await here.records.items(names) if view is not None]
    return [view for view in views if view.state in states and (kinds is None or kind_of(view) in kinds)]


def kind_of(item: ItemView) -> str | None:
    """The kind of an item's last error."""
    return None if item.error is None else item.error.get("kind")


async def _newest(here: Gateway, after: tuple[int, str] | None) -> tuple[list[tuple[int, str]], bool]:
    """Work on record that follows a place of the index, newest first, and whether that is all.

    A place is the time of the acceptance and a name, since any number of works may share a time.
    """
    start, offset = "+inf" if after is None else str(after[0]), 0
    while True:
        found: Any = await here.redis.zrange(
            here.keys.index,
            start,
            "-inf",
            desc=True,
            byscore=True,
            offset=offset,
            num=LOOKED_AT,
            withscores=True,
        )
        rows = [(int(score), name.decode()) for name, score in found]
        following = rows if after is None else [row for row in rows if row < after]
        if following or len(rows) < LOOKED_AT:
            return following, len(rows) < LOOKED_AT
        offset += len(rows)


def _cursor(*parts: str | int) -> str:
    return urlsafe_b64encode(orjson.dumps(parts)).rstrip(b"=").decode()


def _batch_cursor(text: str) -> tuple[int, str]:
    match _parts(text):
        case ["b", int(us), str(name)] if type(us) is int and us >= 0:  # True is an int
            return us, name
    raise _wrong()


def _item_cursor(text: str) -> int:
    match _parts(text):
        case ["i", int(rank)] if type(rank) is int and 0 <= rank < 2**53:
            return rank
    raise _wrong()


def _parts(text: str) -> object:
    try:
        return orjson.loads(urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4)))
    except ValueError:
        return None


def _wrong() -> Problem:
    return bad_parameter("cursor", "`cursor` must be the `next` of an earlier answer of this list.")
