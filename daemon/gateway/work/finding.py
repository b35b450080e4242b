"""Finds the record behind an address: one 404 for all that is not the caller's, and 410 for a record that has expired.

A record leaves Redis some time after its end, and nothing else knows every old id. The index of the newest work, which
keeps its names for longer than their records, tells such an end from an id that never was. Older work is unknown.
"""

from __future__ import annotations

from datetime import UTC, datetime

from daemon.gateway.answering.problems import Problem, not_found
from daemon.gateway.gateway import Gateway
from daemon.gateway.requests.parameters import ident_of
from pixmill.records.keys import Uid, batch_gid, job_gid
from pixmill.records.views import GroupView, ItemView, View


async def find_job(here: Gateway, tenant: str, ident: str) -> View:
    """The record of a job of any number of pictures, or of one picture of it (`{id}.{k}`). Raises Problem 404, 410."""
    gid = job_gid(ident_of(tenant), ident_of(ident))
    view = await here.records.item(gid) or await here.records.group(gid)
    return view or await _missing(here, gid)


async def find_batch(here: Gateway, tenant: str, ident: str) -> GroupView:
    """The record of a batch. Raises Problem 404, 410."""
    gid = batch_gid(ident_of(tenant), ident_of(ident))
    return await here.records.group(gid) or await _missing(here, gid)


async def find_item(here: Gateway, tenant: str, batch: str, ident: str) -> ItemView:
    """The record of an item of a batch. Raises Problem 404, and 410 where the whole batch has expired."""
    uid = Uid(ident_of(tenant), ident_of(batch), ident_of(ident))
    view = await here.records.item(uid)
    if view is not None:
        return view
    await find_batch(here, tenant, batch)
    raise not_found()


async def items_of(here: Gateway, view: View) -> list[ItemView]:
    """The items of some work, in their order: an item alone is its own."""
    return [view] if isinstance(view, ItemView) else await here.records.all_members(view.gid)


async def members_of(here: Gateway, view: View) -> list[ItemView]:
    """The pictures of a job of several, in their order; nothing for other work."""
    if isinstance(view, GroupView) and view.kind == "job":
        return await items_of(here, view)
    return []


async def _missing(here: Gateway, name: str) -> GroupView:
    accepted_us = await here.redis.zscore(here.keys.index, name)
    if accepted_us is None:
        raise not_found()
    day = datetime.fromtimestamp(accepted_us / 1e6, UTC).date().isoformat()
    raise Problem(
        410,
        "expired",
        f"This was accepted on {day}, and its record has expired; pictures are kept as storage is configured.",
        more={"accepted_on": day},
    )
