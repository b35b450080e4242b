"""The interface of a contestant of the limiter benchmark: a gate that each call to the provider passes.

The replica's loop is the same for all of them; only `acquire`, `release` and `refused` differ.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

_RATE = re.compile(r"(?P<count>\d+)/(?P<times>\d*)(?P<period>s|min)")


@dataclass(frozen=True)
class Job:
    """One call: `n` pictures of a model, which takes the provider `service_s` seconds."""

    id: int
    model: str
    n: int
    service_s: float


@dataclass(frozen=True)
class Config:
    """The rig's configuration of a replica. `quotas` are tables as a configuration would hold them."""

    gate: str
    setting: str
    redis_url: str
    jobs_url: str
    jobs_prefix: str
    provider_port: int
    replica: int
    replicas: int
    tasks: int  # for each model
    models: dict[str, list[str]]  # the quotas that a call of the model needs
    quotas: dict[str, dict[str, Any]]
    options: dict[str, Any]
    clock_offset_s: float
    stop_after_s: float | None
    steady_after_s: float

    def rates(self, model: str, unit: str = "requests") -> list[tuple[str, int, int]]:
        """The model's rates on a unit as (name of the quota, count, seconds)."""
        specs = [(name, self.quotas[name].get(unit)) for name in self.models[model]]
        return [(name, *rate(spec)) for name, spec in specs if spec is not None]

    def in_flight(self, model: str) -> list[tuple[str, int]]:
        """The model's limits on calls in flight, as (name of the quota, count)."""
        specs = [(name, self.quotas[name].get("in_flight")) for name in self.models[model]]
        return [(name, count) for name, count in specs if count is not None]


class Gate(ABC):
    """One replica's side of a limiter."""

    distribution: str  # whose version the table shows

    def __init__(self, config: Config) -> None:
        self.config = config
        self.notes: dict[str, Any] = {}  # ends up in the report

    async def open(self) -> None:  # noqa: B027 (most have nothing to do)
        """Connect, so that the first call does not pay for it."""

    async def close(self) -> None:  # noqa: B027
        """Disconnect."""

    @abstractmethod
    async def acquire(self, job: Job, attempt: int, /) -> Any:
        """Wait until the call may be sent; return the argument for `release`.

        When Redis is away this raises, and is called anew with the same arguments.
        """

    async def release(self, permit: Any) -> None:  # noqa: B027
        """The provider has answered."""

    async def refused(self, permit: Any, retry_after_s: float) -> None:  # noqa: ARG002
        """The provider answered 429; after this the job requests its next permit. (`release` follows.)"""
        await asyncio.sleep(retry_after_s)


def rate(text: str) -> tuple[int, int]:
    """`"50/5s"` as (50, 5), `"1/min"` as (1, 60)."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a rate")
    return int(found["count"]), int(found["times"] or 1) * (60 if found["period"] == "min" else 1)
