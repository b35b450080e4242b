"""Every metric that a replica counts itself, named once; gauges.py has those that are read from Redis.

A label holds only names of the configuration or of this code, never an id, a tenant or a prompt: each new value would
be one more time series for ever. One process has one registry, one `Metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from daemon.contract.rejection import RejectionCode
from daemon.queue.dead_letters import CALLBACK_FAILED, OF_ITEMS
from daemon.queue.keys import LANES
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


class Metrics:
    """The metrics of a replica; attributes are named as in the contract, without `pixmill_` and `_total`."""

    def __init__(self) -> None:
        # They would double the number of series and say only when this process first counted something.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library forgot its annotation
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU, open files, under their usual names
        self.call_s: dict[str, float] = {}  # by route, how long a provider call takes: a running average
        self._count_jobs()
        self._count_calls()
        self._count_trouble()
        self._observe_times_and_sizes()
        self._describe_replica()

    def know_route(
        self, route: str, provider: str, quotas: Iterable[str], currency: str | None = None
    ) -> None:
        """Begin every series of a configured route at 0; `currency` is that of its costs, where it reports any.

        Calling it twice changes nothing. A counter that first appears as 1 has, for Prometheus, never increased: its
        first error would be missing from every rate and alert, and panels would say "no data" where the truth is 0.
        """
        for outcome in OUTCOMES:
            self.jobs_finished.labels(route=route, outcome=outcome)
        for kind in ErrorKind:
            self.job_errors.labels(route=route, kind=kind.value)
            self.retries.labels(route=route, kind=kind.value)
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
            self.provider_429.labels(provider=provider, quota=quota)
            self.limiter_grants.labels(quota=quota)
            self.limiter_cooldowns.labels(quota=quota)
            self.limiter_wait_seconds.labels(quota=quota)

    def observe_call(self, provider: str, route: str, seconds: float) -> None:
        """A provider call has ended with a picture after so long."""
        self.provider_latency_seconds.labels(provider=provider, route=route).observe(seconds)
        known = self.call_s.get(route, seconds)
        self.call_s[route] = known + NEWEST_CALL * (seconds - known)

    def count_cost(self, provider: str, cost: Decimal | None, currency: str | None) -> None:
        """Add the cost of a call as the provider reports it; nothing where it reports none, or nonsense."""
        if cost is not None and currency is not None and cost.is_finite() and cost > 0:
            self.cost.labels(provider=provider, currency=currency).inc(float(cost))

    def _count_jobs(self) -> None:
        self.jobs_received = self._counter("jobs_received", "Items accepted from the stream.", "lane")
        self.jobs_finished = self._counter(
            "jobs_finished", "Items that ended, or are held for a person.", "route", "outcome"
        )
        self.job_errors = self._counter("job_errors", "Failed runs of items, final or not.", "route", "kind")
        self.retries = self._counter("retries", "Runs that failed and will be tried again.", "route", "kind")
        self.images = self._counter("images", "Images kept in the object store.", "provider", "route")
        self.image_bytes = self._counter("image_bytes", "Bytes of the images kept.")
        self.cache = self._counter(
            "cache", "Items with `cache: use` that succeeded, by where their picture came from.", "result"
        )
        for lane in LANES:
            self.jobs_received.labels(lane=lane)
        for result in CACHE:
            self.cache.labels(result=result)

    def _count_calls(self) -> None:
        self.provider_requests = self._counter(
            "provider_requests",
            "Calls to providers; status is the HTTP status, or the kind of error when there was none.",
            "provider",
            "route",
            "status",
        )
        self.provider_429 = self._counter(
            "provider_429", "Calls refused for their rate.", "provider", "quota"
        )
        self.provider_calls = self._counter(
            "provider_calls",
            "Calls by whether the provider takes money for them, counted when their runs end.",
            "provider",
            "charged",
        )
        self.cost = self._counter(
            "cost", "Money that calls cost, failed ones too, as providers report it.", "provider", "currency"
        )
        self.limiter_grants = self._counter("limiter_grants", "Permits granted to this replica.", "quota")
        self.limiter_cooldowns = self._counter(
            "limiter_cooldowns", "Pauses that a provider demanded.", "quota"
        )
        self.limiter_errors = self._counter("limiter_errors", "Permits that Redis could not decide on.")

    def _count_trouble(self) -> None:
        self.reclaimed = self._counter("reclaimed", "Items taken over from a replica that fell silent.")
        self.entries_lost = self._counter(
            "entries_lost", "Stream entries that vanished before they were read."
        )
        self.dead_letters = self._counter("dead_letters", "Entries and items that were given up.", "reason")
        self.duplicate_results = self._counter(
            "duplicate_results",
            "Results for items that had already ended; each may have been paid for twice.",
        )
        self.callbacks = self._counter(
            "callbacks", "Tries to deliver a callback; failed and gone: it was given up.", "result"
        )
        for reason in (*OF_ITEMS, CALLBACK_FAILED, *get_args(RejectionCode)):
            self.dead_letters.labels(reason=reason)
        for tried in TRIED:
            self.callbacks.labels(result=tried)

    def _observe_times_and_sizes(self) -> None:
        self.provider_latency_seconds = self._histogram(
            "provider_latency_seconds", "From a provider call to its image.", _CALL_S, "provider", "route"
        )
        self.queue_seconds = self._histogram(
            "queue_seconds", "From acceptance to the first start.", _JOB_S, "route"
        )
        self.job_seconds = self._histogram("job_seconds", "From acceptance to the end.", _JOB_S, "route")
        self.limiter_wait_seconds = self._histogram(
            "limiter_wait_seconds", "From the request for a permit to its slot.", _LIMITER_S, "quota"
        )
        self.persist_seconds = self._histogram(
            "persist_seconds", "Writing an image to the object store.", _PERSIST_S
        )
        self.image_size_bytes = self._histogram("image_size_bytes", "Size of an image.", _IMAGE_BYTES)

    def _describe_replica(self) -> None:
        self.in_flight = self._gauge("in_flight", "Items that this replica is running.")
        self.slots = self._gauge("slots", "Items that this replica may run at once.")
        self.last_progress_timestamp_seconds = self._gauge(
            "last_progress_timestamp_seconds",
            "When this replica last settled an item; its start, before the first.",
        )
        self.last_progress_timestamp_seconds.set_to_current_time()
        self.ready = self._gauge("ready", "1 while this replica is consuming, as /readyz says.")
        self.draining = self._gauge("draining", "1 while this replica finishes its items and takes no more.")
        self.event_loop_lag_seconds = self._gauge(
            "event_loop_lag_seconds", "How late the event loop runs a timer."
        )
        self.build_info = self._gauge("build_info", "Always 1; the version is a label.", "version")
        self.build_info.labels(version=_version()).set(1)

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(name, help_, labels, namespace="pixmill", registry=self.registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(name, help_, labels, namespace="pixmill", registry=self.registry)

    def _histogram(self, name: str, help_: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, help_, labels, namespace="pixmill", registry=self.registry, buckets=buckets)


def _version() -> str:
    try:
        return version("pixmill")
    except PackageNotFoundError:
        return "unknown"
