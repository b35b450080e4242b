"""Every Redis key of an installation, and the names of work inside it, in one place.

`scripts/include/base.lua` and `ring.lua` build the same names on the server; a test holds the two against each other.
"""

from __future__ import annotations

from typing import NamedTuple

LANES = ("high", "normal", "low")
# Two more, for what needs no call now (scripts/include/flight.lua): copies, and items that wait for an identical one.
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
    """The group of a job of several pictures; also the uid of a job of one, so the two cannot both exist."""
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
        self.looks = f"{prefix}:looks"
        self.expiring = f"{prefix}:expiring"
        self.closing = f"{prefix}:closing"
        self.dirty = f"{prefix}:dirty"
        self.active = f"{prefix}:active"
        self.depth = f"{prefix}:depth"
        self.ended = f"{prefix}:ended"
        self.tenants = f"{prefix}:tenants"
        self.quotas = f"{prefix}:quotas"
        self.paused = f"{prefix}:paused"
        self.callbacks = f"{prefix}:callbacks"  # whether anybody has ever asked for one
        self.outbox = f"{prefix}:outbox"
        self.probe = f"{prefix}:probe"
        self.doctor = f"{prefix}:doctor"  # there only while the doctor asks

    def item(self, uid: str) -> str:
        return f"{self.prefix}:item:{uid}"

    def group(self, gid: str) -> str:
        return f"{self.prefix}:batch:{gid}"

    def members(self, gid: str) -> str:
        return f"{self.prefix}:members:{gid}"

    def message(self, ident: str) -> str:
        return f"{self.prefix}:message:{ident}"

    def stream(self, route: str, lane: str) -> str:
        return f"{self.prefix}:q:{route}:{lane}"

    def ring(self, route: str, lane: str) -> str:
        return f"{self.prefix}:ring:{route}:{lane}"

    def turns(self, route: str, lane: str, tenant: str) -> str:
        return f"{self.prefix}:turns:{route}:{lane}:{tenant}"

    def backlog(self, route: str, lane: str, tenant: str, source: str) -> str:
        return f"{self.prefix}:backlog:{route}:{lane}:{tenant}/{source}"

    def flight(self, tenant: str, fingerprint: str) -> str:
        return f"{self.prefix}:flight:{tenant}/{fingerprint}"

    def picture(self, tenant: str, fingerprint: str) -> str:
        return f"{self.prefix}:picture:{tenant}/{fingerprint}"

    def batch_events(self, batch: str) -> str:
        return f"{self.prefix}:events:{batch}"

    def waiting(self, route: str) -> str:
        return f"{self.prefix}:waiting:{route}"
