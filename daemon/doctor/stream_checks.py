"""Checks the streams of an installation: entries that vanished, and the groups that read them."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.doctor.checks import ADMIN_CLI, Check, Finding, fail, ok, warn
from pixmill.records.keys import CACHED, INTAKE_GROUP, LANES, WORKERS_GROUP, Keys


def stream_checks(client: Redis, keys: Keys, routes: Collection[str]) -> dict[str, Check]:
    """Whether the jobs stream lost entries, and which groups read it and the queues of `routes`."""
    ours = {keys.stream(route, queue): WORKERS_GROUP for route in routes for queue in (*LANES, CACHED)}
    return {
        "jobs": partial(_jobs, client, keys.jobs),
        "groups": partial(_groups, client, {keys.jobs: INTAKE_GROUP, **ours}),
    }


async def _jobs(client: Redis, jobs: str) -> Finding:
    """Whether entries vanished that no worker had read, as when a producer trims the stream.

    A reader deletes every entry that it has finished, so the entries that are there are pending or unread. Both
    replies belong to one moment, or a job that arrives between them would look lost.
    """
    async with client.pipeline(transaction=True) as pipe:
        pipe.xinfo_stream(jobs)
        pipe.xinfo_groups(jobs)
        stream, groups = await pipe.execute(raise_on_error=False)
    if isinstance(stream, ResponseError) and "no such key" in str(stream).lower():
        return ok(f"{jobs} does not exist yet: nothing was ever sent here.")
    for reply in (stream, groups):
        if isinstance(reply, Exception):
            raise reply
    waiting = stream["length"]
    group = next((each for each in groups if each["name"] in (INTAKE_GROUP, INTAKE_GROUP.encode())), None)
    if group is None:
        return warn(f"No worker has read {jobs} yet; waiting: {waiting}. Start one.")
    if group.get("entries-read") is None or "entries-added" not in stream:
        return ok(f"{jobs} waiting: {waiting}; this server does not count lost entries.")
    lost = stream["entries-added"] - group["entries-read"] + group["pending"] - waiting
    if lost > 0:
        sentence = f"Entries of {jobs} that vanished before they were accepted: {lost}"
        return fail(
            f"{sentence}. Send without MAXLEN and MINID, and never XTRIM or XDEL it. This shows who does: "
            f"`{ADMIN_CLI} MONITOR | grep '\"{jobs}\"' | grep -iE 'maxlen|minid|xtrim'`."
        )
    return ok(f"{jobs} has lost nothing; waiting: {waiting}.")


async def _groups(client: Redis, ours: dict[str, str]) -> Finding:
    """Whether the streams have the groups of Pixmill and no other. `ours`: the group of each stream."""
    async with client.pipeline(transaction=False) as pipe:
        for stream in ours:
            pipe.xinfo_groups(stream)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
    missing, foreign = list[str](), list[str]()
    for (stream, group), reply in zip(ours.items(), replies, strict=True):
        if isinstance(reply, ResponseError) and "no such key" in str(reply).lower():
            continue  # nothing was ever sent there
        if isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply):
            return fail(
                f"{stream} is no stream, so another program writes under this prefix: give it one of its own, then "
                f"`{ADMIN_CLI} RENAME {shlex.quote(stream)} {shlex.quote(f'{stream}-foreign')}`."
            )
        if isinstance(reply, Exception):
            raise reply
        names = [_text(each["name"]) for each in reply]
        destroy = f"{ADMIN_CLI} XGROUP DESTROY {shlex.quote(stream)}"
        foreign += [f"{destroy} {shlex.quote(name)}" for name in names if name != group]
        if group not in names:
            missing.append(stream)
    if foreign:
        return warn(
            "Other programs read our queues by groups of their own, and miss what is deleted there: follow the events "
            f"instead, and remove the groups: `{'`, `'.join(foreign)}`."
        )
    if missing:
        return warn(f"No worker reads {', '.join(missing)} yet: `pixmill worker`.")
    return ok("No other program reads our queues.")


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
