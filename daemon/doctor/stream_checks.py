"""Checks the streams of an installation: entries that vanished, and the groups that read them."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from daemon.doctor.checks import ADMIN_CLI, Check, Finding, fail, ok, warn
from daemon.queue.jobs_stream import look_at_jobs
from pixmill.records.keys import CACHED, INTAKE_GROUP, LANES, WORKERS_GROUP, Keys

DELETES = '"(xtrim|xdel|del|unlink)"|"(maxlen|minid)"'


def stream_checks(client: Redis, keys: Keys, routes: Collection[str]) -> dict[str, Check]:
    """Whether the jobs stream lost entries, and which groups read it and the queues of `routes`."""
    ours = {keys.stream(route, queue): WORKERS_GROUP for route in routes for queue in (*LANES, CACHED)}
    return {
        "jobs": partial(_jobs, client, keys),
        "groups": partial(_groups, client, {keys.jobs: INTAKE_GROUP, **ours}),
    }


async def _jobs(client: Redis, keys: Keys) -> Finding:
    """Whether entries vanished that no worker had read, as when a producer trims the stream."""
    jobs = await look_at_jobs(client, keys)
    if jobs is None:
        return ok(f"{keys.jobs} does not exist yet: nothing was ever sent here.")
    if jobs.lost:
        ours = f"""-e '"{keys.jobs}"' -e '"{keys.prefix}:q:'"""
        forget = f"{ADMIN_CLI} HINCRBY {shlex.quote(keys.installation)} entries_ended {jobs.lost}"
        return fail(
            f"Entries of {keys.jobs} that vanished before they were accepted: {jobs.lost}. Send without MAXLEN and "
            "MINID, and never trim or delete it. This shows who does: "
            f"`{ADMIN_CLI} MONITOR | grep --line-buffered -F {ours} | grep -iE '{DELETES}' | grep -v ' lua]'`. "
            f"Once the producers have sent them again, forget this loss: `{forget}`."
        )
    if not jobs.is_read:
        return warn(f"No worker has read {keys.jobs} yet; waiting: {jobs.length}. Start one.")
    if jobs.lost is None:
        return ok(f"{keys.jobs} waiting: {jobs.length}; nobody has counted lost entries here.")
    return ok(f"{keys.jobs} has lost nothing; waiting: {jobs.length}.")


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
