"""Every Redis key of an installation, and the names of work inside it, in one place.

The scripts build the same names on the server; a test compares the two.
"""

from __future__ import annotations

from typing import NamedTuple

LANES = ("high", "normal", "low")
# The `place` of an item outside of its lane. CACHED: it stands in the queue of items that are only copied. JOINED: it
# waits for an identical item and stands in no queue (scripts/include/flight.lua).
CACHED = "cached"
JOINED = "joined"
INTAKE_GROUP = "intake"
WORKERS_GROUP = "workers"


class Uid(NamedTuple):
    """An item's name in the installation: `tenant/batch/item`, with an empty batch for a job of its own.

    Ids never contain a slash, so the text form is unambiguous.
    """

    tenant: str
    batch: str
    item: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.batch}/{self.item}"

    @classmethod
    def parse(cls, text: str) -> Uid:
        tenant, batch, item = text.split("/", 2)
        return cls(tenant, batch, item)


def batch_gid(tenant: str, batch: str) -> str:
    """The group of a batch."""
    return f"{tenant}/{batch}"


def job_gid(tenant: str, job: str) -> str:
    """The group of a job of several pictures. A job of one picture has this name as its uid, so only one can exist."""
    return f"{tenant}//{job}"


class Keys:
    """Key names under one prefix. On Redis Cluster the prefix is a hash tag, `{pixmill}`: all keys share its slot."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.jobs = f"{prefix}:jobs"
        self.events = f"{prefix}:events"
        self.dead = f"{prefix}:dead"
        self.bell = f"{prefix}:bell"
        self.index = f"{prefix}:index"
        self.delayed = f"{prefix}:delayed"
        self.expiring = f"{prefix}:expiring"
        self.closing = f"{prefix}:closing"
        self.dirty = f"{prefix}:dirty"
        self.active = f"{prefix}:active"
        self.depth = f"{prefix}:depth"
        self.ended = f"{prefix}:ended"
        self.accepting = f"{prefix}:accepting"
        self.tenants = f"{prefix}:tenants"
        self.quotas = f"{prefix}:quotas"
        self.asides = f"{prefix}:asides"  # the lists of `aside` that may have items, each as `route|account`
        self.call_s = f"{prefix}:call_s"
        self.paused = f"{prefix}:paused"
        self.installation = f"{prefix}:installation"  # schema, retention, routes and quotas, ended entries
        self.callbacks = f"{prefix}:callbacks"  # exists once any job has had a callback
        self.outbox = f"{prefix}:outbox"
        self.seal = f"{prefix}:seal"  # signs the sessions and links of gateways, with the hash of a key
        self.probe = f"{prefix}:probe"
        self.recount = f"{prefix}:recount"  # exists for a minute after a recount
        self.doctor = f"{prefix}:doctor"  # exists only while the doctor runs

    def item(self, uid: str) -> str:
        return f"{self.prefix}:item:{uid}"

    def group(self, gid: str) -> str:
        return f"{self.prefix}:batch:{gid}"

    def members(self, gid: str) -> str:
        return f"{self.prefix}:members:{gid}"

    def accepting_part(self, gid: str, part: int) -> str:
        return f"{self.accepting}:{gid}/{part}"

    def message(self, ident: str) -> str:
        return f"{self.prefix}:message:{ident}"

    def stream(self, route: str, queue: str) -> str:
        return f"{self.prefix}:q:{route}:{queue}"

    def ring(self, route: str, queue: str) -> str:
        return f"{self.prefix}:ring:{route}:{queue}"

    def turns(self, route: str, queue: str, tenant: str) -> str:
        return f"{self.prefix}:turns:{route}:{queue}:{tenant}"

    def backlog(self, route: str, queue: str, tenant: str, source: str) -> str:
        return f"{self.prefix}:backlog:{route}:{queue}:{tenant}/{source}"

    def flight(self, tenant: str, fingerprint: str) -> str:
        return f"{self.prefix}:flight:{tenant}/{fingerprint}"

    def picture(self, tenant: str, fingerprint: str) -> str:
        return f"{self.prefix}:picture:{tenant}/{fingerprint}"

    def usage(self, day: str) -> str:
        """The use of a day such as 2026-01-31 (UTC)."""
        return f"{self.prefix}:usage:{day}"

    def durations(self, route: str, model: str, size_class: str) -> str:
        return f"{self.prefix}:durations:{route}:{model}:{size_class}"

    def batch_events(self, batch: str) -> str:
        return f"{self.prefix}:events:{batch}"

    def unreachable(self, route: str) -> str:
        """Exists while a replica cannot reach the route's provider."""
        return f"{self.prefix}:unreachable:{route}"

    def aside(self, route: str, account: str) -> str:
        """Items of a route that wait for one of its accounts alone."""
        return f"{self.prefix}:aside:{route}:{account}"

    def waiting(self, route: str) -> str:
        return f"{self.prefix}:waiting:{route}"
