"""Defines every metric that a replica counts itself; gauges.py has those that are read from Redis.

A label holds only names of the configuration or of this code, never an id, a tenant or a prompt: each new value would
be one more time series for ever. One process has one registry, one `Metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from daemon.queue.dead_letters import CALLBACK_FAILED, OF_ITEMS
from limiter.quota.limits import POLLS_OF
from pixmill.contract.rejection import RejectionCode
from pixmill.records.keys import LANES
from providers.errors import ErrorKind

OUTCOMES = ("succeeded", "failed", "cancelled", "expired", "held")
CHARGED = ("no", "maybe", "yes")
TRIED = ("delivered", "retry", "failed", "gone")  # callbacks, by the end of a try
CACHE = ("hit", "miss", "joined")
NEWEST_CALL = 0.1  # weight of the newest call in the running average
LATE_RECEIPT = "late_receipt"  # the dead letter of a task whose worker had lost the item

_CALL_S = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300)
_JOB_S = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400)
_LIMITER_S = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)
_PERSIST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGE_BYTES = tuple(1024 * 4**power for power in range(1, 9))  # 4 KiB to 64 MiB


M = TypeVar("M")


class Metric(Generic[M]):
    """A metric with the name of its attribute; like a cached property, it is made once per instance."""

    def __init__(self, kind: Callable[..., M], help_: str, *labels: str, **more: Any) -> None:
        self._make = partial(kind, documentation=help_, labelnames=labels, namespace="pixmill", **more)

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def __get__(self, metrics: Registered, _owner: type) -> M:
        made = metrics.__dict__[self.name] = self._make(self.name, registry=metrics.registry)
        return made


class Registered:
    """Metrics of one registry, each made at the start, so that one that was never counted is exported, too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        for name in dir(type(self)):
            getattr(self, name)


class ProcessMetrics(Registered):
    """The metrics of every process: memory and CPU, its version, its readiness, the items that it accepted."""

    jobs_received = Metric(Counter, "Items accepted.", "lane")
    ready = Metric(Gauge, "1 while this process serves, as /readyz says.")
    event_loop_lag_seconds = Metric(Gauge, "How late the event loop runs a timer.")
    build_info = Metric(Gauge, "Always 1; the version is a label.", "version")

    def __init__(self) -> None:
        # Created metrics would double the series, and only show when this process first counted something.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library forgot its annotation
        super().__init__(CollectorRegistry())
        ProcessCollector(registry=self.registry)  # memory, CPU, open files, under their usual names
        for lane in LANES:
            self.jobs_received.labels(lane=lane)
        self.build_info.labels(version=_version()).set(1)

    def count_received(self, lane: str) -> None:
        """Count an item that was accepted."""
        self.jobs_received.labels(lane=lane).inc()


class Metrics(ProcessMetrics):
    """The metrics of a replica; attributes are named as in the contract, without `pixmill_` and `_total`."""

    jobs_rerouted = Metric(Counter, "Items that the account of another route ended.", "route", "instead_of")
    jobs_finished = Metric(Counter, "Items that ended, or are held for a person.", "route", "outcome")
    job_errors = Metric(Counter, "Failed runs of items, final or not.", "route", "kind")
    retries = Metric(Counter, "Runs that failed and will be tried again.", "route", "kind")
    images = Metric(Counter, "Images kept in the object store.", "provider", "route")
    image_bytes = Metric(Counter, "Bytes of the images kept.")
    cache = Metric(
        Counter, "Items with `cache: use` that succeeded, by the origin of their picture.", "result"
    )

    provider_requests = Metric(
        Counter,
        "Calls to providers; status is the HTTP status, or the kind of error when there was none.",
        *("provider", "route", "status"),
    )
    provider_429 = Metric(Counter, "Calls refused for their rate.", "provider", "quota")
    provider_calls = Metric(
        Counter,
        "Calls by whether the provider takes money for them, counted when their runs end.",
        *("provider", "charged"),
    )
    cost = Metric(
        Counter, "Money that calls cost, failed ones too, as providers report it.", "provider", "currency"
    )
    provider_unreachable = Metric(
        Gauge, "1 while this replica cannot reach the provider, so that nothing is sent.", "provider", "route"
    )
    limiter_grants = Metric(Counter, "Permits granted to this replica.", "quota")
    limiter_cooldowns = Metric(Counter, "Pauses that a provider demanded.", "quota")
    limiter_errors = Metric(Counter, "Permits that Redis could not decide on.")

    reclaimed = Metric(Counter, "Items taken over from a replica that fell silent.")
    entries_lost = Metric(Counter, "Stream entries that vanished before they were read.")
    dead_letters = Metric(Counter, "Entries and items that were given up.", "reason")
    duplicate_results = Metric(
        Counter, "Results for items that had already ended; each may have been paid for twice."
    )
    callbacks = Metric(Counter, "Tries to deliver a callback; failed and gone: it was given up.", "result")

    provider_latency_seconds = Metric(
        Histogram, "From a provider call to its image.", "provider", "route", buckets=_CALL_S
    )
    queue_seconds = Metric(Histogram, "From acceptance to the first start.", "route", buckets=_JOB_S)
    job_seconds = Metric(Histogram, "From acceptance to the end.", "route", buckets=_JOB_S)
    limiter_wait_seconds = Metric(
        Histogram, "From the request for a permit to its slot.", "quota", buckets=_LIMITER_S
    )
    poll_gap_seconds = Metric(
        Histogram,
        "The longest time for which a task can have been finished before a poll found it.",
        "route",
        buckets=_LIMITER_S,
    )
    persist_seconds = Metric(Histogram, "Writing an image to the object store.", buckets=_PERSIST_S)
    image_size_bytes = Metric(Histogram, "Size of an image.", buckets=_IMAGE_BYTES)

    in_flight = Metric(Gauge, "Items that this replica is running.")
    slots = Metric(Gauge, "Items that this replica may run at once.")
    last_progress_timestamp_seconds = Metric(
        Gauge, "When this replica last settled an item; its start, before the first."
    )
    draining = Metric(Gauge, "1 while this replica finishes its items and takes no more.")

    def __init__(self) -> None:
        super().__init__()
        self.call_s: dict[str, float] = {}  # by route, how long a provider call takes: a running average
        for result in CACHE:
            self.cache.labels(result=result)
        for reason in (*OF_ITEMS, CALLBACK_FAILED, *get_args(RejectionCode)):
            self.dead_letters.labels(reason=reason)
        for tried in TRIED:
            self.callbacks.labels(result=tried)
        self.last_progress_timestamp_seconds.set_to_current_time()

    def know_route(
        self,
        route: str,
        provider: str,
        quotas: Iterable[str],
        currency: str | None = None,
        others: Iterable[str] = (),
    ) -> None:
        """Begin every series of a configured route at 0; `currency` is that of its costs, if it reports any.

        `others` are the routes whose accounts may take its items.

        Calling it twice changes nothing. A counter that first appears as 1 has, for Prometheus, never increased: its
        first error would be missing from every rate and alert, and panels would show "no data" instead of 0.
        """
        for outcome in OUTCOMES:
            self.jobs_finished.labels(route=route, outcome=outcome)
        for kind in ErrorKind:
            self.job_errors.labels(route=route, kind=kind.value)
            self.retries.labels(route=route, kind=kind.value)
        self.poll_gap_seconds.labels(route=route)
        for other in others:
            self.jobs_rerouted.labels(route=other, instead_of=route)
        self.provider_unreachable.labels(provider=provider, route=route)
        for status in ("200", "429"):
            self.provider_requests.labels(provider=provider, route=route, status=status)
        for charged in CHARGED:
            self.provider_calls.labels(provider=provider, charged=charged)
        if currency is not None:
            self.cost.labels(provider=provider, currency=currency)
        self.images.labels(provider=provider, route=route)
        self.provider_latency_seconds.labels(provider=provider, route=route)
        self.queue_seconds.labels(route=route)
        self.job_seconds.labels(route=route)
        for quota in quotas:
            for refused in (quota, quota + POLLS_OF):
                self.provider_429.labels(provider=provider, quota=refused)
                self.limiter_cooldowns.labels(quota=refused)
            self.limiter_grants.labels(quota=quota)
            self.limiter_wait_seconds.labels(quota=quota)

    def observe_call(self, provider: str, route: str, seconds: float) -> None:
        """Count a provider call that ended with a picture after `seconds`."""
        self.provider_latency_seconds.labels(provider=provider, route=route).observe(seconds)
        known = self.call_s.get(route, seconds)
        self.call_s[route] = known + NEWEST_CALL * (seconds - known)

    def count_cost(self, provider: str, cost: Decimal | None, currency: str | None) -> None:
        """Add the cost of a call as the provider reports it; nothing if it reports none, or nonsense."""
        if cost is not None and currency is not None and cost.is_finite() and cost > 0:
            self.cost.labels(provider=provider, currency=currency).inc(float(cost))


def _version() -> str:
    try:
        return version("pixmill-daemon")
    except PackageNotFoundError:
        return "unknown"
