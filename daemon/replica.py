"""One replica: the list of its parts, the order in which they start, and the order in which they stop.

Senders end before receivers: nothing new is read, then nothing new is claimed, then what runs is settled while the
heartbeat keeps it ours; the heartbeat stops last. Paid calls are not cancelled by a deploy.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import structlog

from daemon.accounts.feedback import Accounts
from daemon.accounts.quota_book import QuotaBook
from daemon.accounts.routes import Routes
from daemon.broker.connect import blocking_client, command_client
from daemon.broker.loops import run_forever
from daemon.callbacks.delivery import Callbacks
from daemon.callbacks.signing import Webhooks
from daemon.compat.studio import studio_types
from daemon.intake.reader import Intake
from daemon.maintenance.eta import Estimator
from daemon.maintenance.heartbeat import Heartbeat
from daemon.maintenance.janitor import Janitor
from daemon.maintenance.reclaimer import Reclaimer
from daemon.maintenance.scheduler import Scheduler
from daemon.maintenance.write_probe import WriteProbe
from daemon.queue.bell import Bell
from daemon.queue.keys import Keys
from daemon.queue.outbox import Outbox
from daemon.queue.outcomes import Outcome
from daemon.queue.pauses import PauseBook
from daemon.queue.queue import Queue
from daemon.settings import Settings
from daemon.storage.gate import StorageGate
from daemon.storage.keeper import PictureKeeper
from daemon.storage.object_store import ResultStore
from daemon.telemetry.gauges import RedisGauges
from daemon.telemetry.health import health_app
from daemon.telemetry.metrics import Metrics
from daemon.worker.cache import Copies
from daemon.worker.dispatcher import Dispatcher
from daemon.worker.executor import Executor
from daemon.worker.inputs import InputFetcher
from daemon.worker.permits import PermittedCalls
from daemon.worker.poll_pacer import Pacer
from daemon.worker.polling import Collector
from daemon.worker.pool import Execute, Running
from daemon.worker.retry_policy import Judge
from daemon.worker.run import Run
from limiter import Limiter, Recalls
from providers.http.asgi import AsgiServer
from providers.http.client import warm_up

log = structlog.get_logger(__name__)

MOST_CRASHES = 5
ADOPTED_IN_S = 2.0
GAUGES_EVERY_S = 2.0
CANCEL_AGAIN_S = 0.5
INTAKE_STOP_S = 5.0  # a blocking read takes one; what was read is accepted in far less
SILENT_S = 15.0  # without a successful claim or look for so long, the replica is not consuming


def worker_name() -> str:
    """Unique over hosts, processes and restarts; people can read where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class Replica:
    """`start`, then `stop`; stop works after a failed start, and twice."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        routes: Routes,
        store: ResultStore,
        *,
        execute: Execute | None = None,
        webhooks: Webhooks | None = None,
        worker: str | None = None,
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.worker = worker or worker_name()
        self.keys = Keys(settings.redis.prefix)
        self._routes = routes
        self._store = store
        prefix = settings.redis.prefix
        self._client = command_client(redis_url, prefix)
        self._blocking = blocking_client(redis_url, prefix)
        self._listener = blocking_client(redis_url, prefix)
        self.queue = Queue(
            self._client,
            self.keys,
            self.worker,
            max_backlog_per_tenant=settings.worker.max_backlog_per_tenant,
        )
        lease_s = settings.worker.lease
        # Longer than the item's own lease: the place of a dead worker's call stays taken until somebody adopts it.
        self.limiter = Limiter(self._client, settings.redis.prefix, lease_s=2 * lease_s + ADOPTED_IN_S)
        self._accounts = Accounts(self._client, self.keys, self.limiter, self.metrics)
        self._pacer = Pacer(self.limiter, self.metrics, self.worker)
        self._gate = StorageGate(store, on_open=lambda: self._bell.ring_all())
        recalls = Recalls()
        self._calls = PermittedCalls(
            self.limiter,
            self.queue,
            lease_s=lease_s,
            accounts=self._accounts,
            recalls=recalls,
            may_buy=lambda: not self._gate.closed,
        )
        self.running = Running(
            self.queue,
            self._calls,
            self.metrics,
            execute or self._execute,
            slots=settings.worker.max_in_flight,
            on_free=lambda: self._bell.ring_all(),
        )
        self._bell = Bell(self._listener, self.keys.bell, self.running.ask_cancel, self.worker, recalls)
        self._quota_book = QuotaBook(
            self._client,
            self.keys,
            routes,
            settings.quotas,
            rung=self._bell.quota_rung,
            on_change=self._quotas_changed,
        )
        self._pause_book = PauseBook(
            self._client, self.keys, rung=self._bell.pause_rung, on_change=self._bell.ring_all
        )
        webhooks = webhooks or Webhooks(allow_hosts=settings.network.allow_hosts)
        self._callbacks = Callbacks(
            Outbox(self._client, settings.redis.prefix),
            webhooks,
            self.metrics,
            rung=self._bell.callback_rung,
        )
        self.intake = Intake(
            self._client,
            self._blocking,
            self.queue,
            routes,
            self.metrics,
            webhooks=webhooks,
            types=studio_types(settings.gateway.studio_route),
            lease_s=lease_s,
        )
        self.dispatchers = {
            route.name: Dispatcher(
                route,
                self.queue,
                self.limiter,
                self.running,
                self._bell,
                self.metrics,
                self._accounts,
                self._gate,
                self._pause_book.over,
            )
            for route in routes.values()
        }
        self._copies = Copies(list(routes.values()), self.queue, self.running, self._bell, self._gate)
        self._heartbeat = Heartbeat(self.queue, self.limiter, self.running, self._calls.lag, lease_s=lease_s)
        self._reclaimer = Reclaimer(
            self.queue, routes, self.running, self.metrics, lease_s=lease_s, most_crashes=MOST_CRASHES
        )
        self._janitor = Janitor(self.queue, list(routes), lease_s=lease_s)
        self._estimator = Estimator(self._client, self.keys, self.dispatchers, settings.worker.max_in_flight)
        self._executor = self._made_executor()
        self._scheduler = Scheduler(self._client, self.queue, self._estimator, self.metrics)
        self.probe = WriteProbe(self.queue, settings.retention)
        self._gauges = RedisGauges(
            self._client,
            self.keys,
            self.limiter,
            routes.quotas,
            self.metrics,
        )
        listen = settings.metrics.listen
        app = health_app(self.metrics, self.readiness, self._gauges.refresh)
        self._server = AsgiServer(app, listen.host, listen.port)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self.left = 0

    async def _execute(self, run: Run) -> Outcome:
        return await self._executor.run(run)

    def _quotas_changed(self) -> None:
        # What was granted under the limits of before does not hold, also where it was asked for since the bell rang.
        self._bell.recalls.deaf()
        self._bell.ring_all()

    def _made_executor(self) -> Executor:
        network = self.settings.network
        return Executor(
            self.queue,
            PictureKeeper(self._store, self._gate, on_duplicate=self.metrics.duplicate_results.inc),
            InputFetcher(self._store, max_bytes=network.max_input_bytes, allow_hosts=network.allow_hosts),
            Collector(turn=self._pacer.turn),
            Judge(self._accounts, self.metrics),
            self.metrics,
            calls=self._calls,
            observe_latency=self._estimator.observe,
        )

    async def start(self) -> None:
        """Start every part. Redis may still be away: the parts wait for it, and readiness says so."""
        for route in self._routes.values():
            quotas = [quota.name for quota in route.quotas]
            currency = route.provider.capabilities(route.model).currency
            self.metrics.know_route(route.name, route.provider.name, quotas, currency)
        await warm_up()
        await self._server.start()
        self._tasks["write probe"] = asyncio.create_task(self.probe.run(), name="write probe")
        self._start("bell", self._bell.run)
        self._start("quota book", self._quota_book.run)
        self._start("storage gate", self._gate.run)
        self._start("pause book", self._pause_book.run)
        self._start("heartbeat", self._heartbeat.run)
        self._start("scheduler", self._scheduler.run)
        self._start("callbacks", self._callbacks.run)
        self._start("reclaimer", self._reclaimer.run)
        self._start("janitor", self._janitor.run)
        self._start("gauges", lambda: run_forever("gauges", self._refresh_gauges))
        for name, dispatcher in self.dispatchers.items():
            self._start(f"dispatcher {name}", partial(self._dispatch, dispatcher))
        self._start("copies", self._copies.run)
        self._start("intake", self.intake.run)
        log.info(
            "replica started",
            worker=self.worker,
            routes=list(self._routes),
            metrics=self._server.url + "/metrics",
        )

    @property
    def metrics_url(self) -> str:
        """Where /metrics, /healthz and /readyz are."""
        return self._server.url

    async def stop(self) -> None:
        """Stop in order; `left` is then how many runs did not end in time and were handed over."""
        if self._stopping:
            return
        self._stopping = True
        self.metrics.draining.set(1)
        self.intake.stop()
        await self._end(
            *(name for name in self._tasks if name.startswith("dispatcher")), "copies", "reclaimer"
        )
        await self._intake_ended()
        log.info("draining", running=len(self.running.current()))
        self.left = await self.running.drain(self.settings.worker.drain_timeout, on_late=self._gate.give_up)
        await self._pacer.aclose()
        await self._end("scheduler", "janitor", "gauges", "quota book", "pause book")
        await self._end("bell", "callbacks", "write probe", "storage gate")
        await self._callbacks.drain()
        await self._end("heartbeat")
        try:
            await asyncio.wait_for(self.queue.leave(self._routes), 5)
        except Exception as error:
            # Only tidiness is lost: idle consumer names without pending entries.
            log.warning("could not take our name off the groups", error=str(error))
        await self._close()
        log.info("replica stopped", handed_over=self.left)

    async def _close(self) -> None:
        await self._server.stop()
        for provider in {id(route.provider): route.provider for route in self._routes.values()}.values():
            await provider.aclose()
        await self._store.aclose()
        for client in (self._client, self._blocking, self._listener):
            await client.aclose()

    def readiness(self) -> tuple[bool, str]:
        """Whether this replica is consuming, and if not, why, in a sentence."""
        if self._stopping:
            return False, "The replica is draining: it takes no new work."
        if self.probe.trouble is not None:
            return False, self.probe.trouble
        if self._gate.closed:
            return False, f"Nothing is claimed: pictures cannot be stored ({self._gate.why})."
        now = time.monotonic()
        if self.intake.read_at is None or now - self.intake.read_at > SILENT_S:
            return False, "The intake has not been able to read the jobs stream lately; is Redis reachable?"
        for name, dispatcher in self.dispatchers.items():
            if dispatcher.looked_at is None:
                return False, f"Route {name} has not looked at its queue yet; is Redis reachable?"
            silent_s = now - dispatcher.looked_at
            if silent_s > SILENT_S:
                return False, f"Route {name} has not been able to look at its queue for {silent_s:.0f} s."
        return True, "consuming"

    def _start(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks[name] = asyncio.create_task(self._once_checked(run), name=name)

    async def _once_checked(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # The records of a newer version must not be touched.
        await self.probe.checked.wait()
        await run()

    async def _end(self, *names: str) -> None:
        tasks = [task for name in names if (task := self._tasks.pop(name, None)) is not None]
        while tasks:
            for task in tasks:
                task.cancel()
            # Again and again: a library below may swallow one cancellation.
            _, pending = await asyncio.wait(tasks, timeout=CANCEL_AGAIN_S)
            tasks = list(pending)

    async def _intake_ended(self) -> None:
        if (task := self._tasks.get("intake")) is not None and self.probe.checked.is_set():
            await asyncio.wait([task], timeout=INTAKE_STOP_S)
        await self._end("intake")

    async def _dispatch(self, dispatcher: Dispatcher) -> None:
        # An operator may have set less than the configuration allows, or paused it.
        await self._quota_book.known.wait()
        await self._pause_book.known.wait()
        await dispatcher.run()

    async def _refresh_gauges(self) -> None:
        await self._gauges.refresh()
        await asyncio.sleep(GAUGES_EVERY_S)
