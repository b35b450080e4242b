"""Builds one replica from its parts, which start in the order of a list and stop in reverse.

Senders stop before receivers. First the replica stops reading and claiming. Then every run is settled while the
heartbeat renews its lease. The heartbeat stops last, so a deploy cancels no paid call.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from functools import partial

import structlog

from daemon.accounts.call_times import CallTimes
from daemon.accounts.feedback import AccountFeedback
from daemon.accounts.quota_book import QuotaBook
from daemon.accounts.routes import Routes
from daemon.broker.parts import Part, Parts
from daemon.callbacks.delivery import Callbacks
from daemon.callbacks.signing import Webhooks
from daemon.compat.studio import studio_types
from daemon.intake.acceptance import Acceptor
from daemon.intake.reader import Intake
from daemon.maintenance.eta import Estimator
from daemon.maintenance.heartbeat import Heartbeat
from daemon.maintenance.janitor import Janitor
from daemon.maintenance.reclaimer import Reclaimer
from daemon.maintenance.resumer import Resumer
from daemon.maintenance.scheduler import Scheduler
from daemon.maintenance.write_probe import WriteProbe
from daemon.queue.bell import Bell
from daemon.queue.outbox import Outbox
from daemon.queue.queue import Queue
from daemon.settings import Settings, SettingsError
from daemon.settings.pace import pace_as_json
from daemon.storage.gate import StorageGate
from daemon.storage.keeper import PictureKeeper
from daemon.storage.object_store import ResultStore
from daemon.telemetry.gauges import RedisGauges
from daemon.telemetry.health import health_app
from daemon.telemetry.metrics import Metrics
from daemon.telemetry.tracing import tracer
from daemon.worker.cache import Copies
from daemon.worker.dispatcher import Dispatcher
from daemon.worker.download import Download
from daemon.worker.executor import Executor
from daemon.worker.inputs import InputFetcher
from daemon.worker.pause_book import PauseBook
from daemon.worker.permits import CallPermits
from daemon.worker.polls.awaited import Awaited
from daemon.worker.polls.durations import Durations
from daemon.worker.polls.pacer import Pacer
from daemon.worker.polls.polling import Polling
from daemon.worker.pool import Pool
from daemon.worker.retry_policy import RetryPolicy
from daemon.worker.spans import spans_of
from daemon.worker.spares import Account, Watch
from limiter import Limiter, Places, Recalls
from pixmill.broker.connect import blocking_client, command_client
from pixmill.records.keys import Keys
from providers.http.asgi import AsgiServer
from providers.http.client import warm_up
from providers.http.outside import leave_by_proxy

log = structlog.get_logger(__name__)

MOST_CRASHES = 5
ADOPTED_IN_S = 2.0
SPARE_PORTS = 99  # for the replicas that share a machine, beyond the default port of /metrics
SILENT_S = 15.0  # without a successful claim or look for this time, the replica is not consuming


def worker_name() -> str:
    """Unique over hosts, processes and restarts; people can read where it runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class Replica:
    """`start`, then `stop`; stop works without a start, after a failed start, and twice.

    `calm`: after a restart of Redis, wait until other replicas could hand in what it has lost.
    """

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        routes: Routes,
        store: ResultStore,
        webhooks: Webhooks,
        *,
        calm: bool = True,
    ) -> None:
        self.settings, self.routes, self.store, self.webhooks = settings, routes, store, webhooks
        self.metrics = metrics = Metrics()
        self.worker = worker_name()
        prefix, lease_s, slots = settings.redis.prefix, settings.worker.lease, settings.worker.max_in_flight
        self.keys = keys = Keys(prefix)
        self._client = client = command_client(redis_url, prefix)
        self._blocking = blocking_client(redis_url, prefix)
        self._listener = blocking_client(redis_url, prefix)
        self.queue = queue = Queue(
            client,
            keys,
            self.worker,
            max_backlog_per_tenant=settings.worker.max_backlog_per_tenant,
            calm_s=lease_s if calm else 0,
        )
        # Longer than the item's own lease: the place of a dead replica's call stays taken until the item is adopted.
        self.limiter = limiter = Limiter(client, prefix, lease_s=2 * lease_s + ADOPTED_IN_S)
        self._bell = bell = Bell(self._listener, keys.bell, Recalls(), Places(limiter))
        self._gate = gate = StorageGate(store, bell)
        metrics.storage_failing.set_function(lambda: float(gate.closed))
        self.probe = WriteProbe(queue, settings.retention, pace_as_json(settings))
        self._quota_book = QuotaBook(client, keys, routes, settings.quotas, bell)
        self._pause_book = PauseBook(client, keys, rung=bell.pause_rung, on_change=bell.ring_everybody)
        equals = {name: route.equals for name, route in routes.items() if route.equals}
        self._gauges = RedisGauges(client, keys, limiter, routes.quotas, metrics, equals=equals)

        accounts = AccountFeedback(client, keys, limiter, metrics)
        spans = spans_of(tracer(), prefix, self.worker)
        calls = CallPermits(
            limiter, queue, accounts, bell.recalls, bell.places, gate, lease_s=lease_s, spans=spans
        )
        pacer = Pacer(limiter, metrics, self.worker, bell.recalls)
        network = settings.network
        leave_by_proxy(network.proxy == "all")
        inputs = InputFetcher(store, max_bytes=network.max_input_bytes, allow_hosts=network.allow_hosts)
        policy = RetryPolicy(accounts, metrics)
        keeper = PictureKeeper(store, gate, metrics, queue.now_us)
        self.dispatchers: dict[str, Dispatcher] = {}
        durations, is_awaited = Durations(client, keys, metrics), Awaited(self.dispatchers)
        polling = Polling(pacer.turn, accounts.polls_refused, durations, is_awaited)
        executor = Executor(
            queue, keeper, inputs, polling, Download(polling), policy, calls, metrics, routes, spans
        )
        self.pool = pool = Pool(queue, calls, metrics, bell, executor.run, slots=slots, spans=spans)
        self.probe.on_life = pool.settles.note_life
        shared: list[Account] = []
        for name in routes:
            serving = Account.of_line(routes, name)
            shared += serving if routes.is_shared(name) else ()
            for account in serving:
                self.dispatchers[account.name] = Dispatcher(
                    account.route,
                    queue,
                    limiter,
                    pool,
                    bell,
                    metrics,
                    accounts,
                    gate,
                    self._pause_book.over,
                    account if routes.is_shared(name) else None,
                )
        types = studio_types(settings.gateway.studio_route)
        self.acceptor = Acceptor(queue, routes, webhooks, metrics.count_received)
        self.intake = Intake(client, self._blocking, queue, self.acceptor, metrics, types, lease_s=lease_s)
        copies = Copies(list(routes.values()), queue, pool, bell, gate)
        reclaimer = Reclaimer(queue, routes, pool, metrics, lease_s=lease_s, most_crashes=MOST_CRASHES)
        estimator = Estimator(client, keys, self.dispatchers, slots, metrics)
        callbacks = Callbacks(Outbox(client, prefix), webhooks, metrics, rung=bell.callback_rung)
        self._parts = Parts(
            [
                # Renews our leases until the last run is settled.
                [Part("heartbeat", Heartbeat(queue, limiter, pool, calls.lag, lease_s=lease_s).run)],
                # Waits for the replies to callbacks in flight after their part has stopped.
                [Part("callbacks on their way", None, callbacks.drain)],
                # Draining runs still need recalls, the store and callbacks.
                [
                    Part("write probe", self.probe.run, at_once=True),
                    Part("bell", bell.run),
                    Part("storage gate", gate.run),
                    Part("callbacks", callbacks.run),
                ],
                [
                    Part("quota book", self._quota_book.run),
                    Part("pause book", self._pause_book.run),
                    Part("scheduler", Scheduler(client, queue, estimator, metrics).run),
                    Part("janitor", Janitor(queue, list(routes), lease_s=lease_s).run),
                    Part("resumer", Resumer(client, prefix, self.acceptor).run),
                    Part("gauges", self._gauges.run),
                    Part("spares", Watch(shared, limiter, queue).run),
                    Part("call times", CallTimes(client, keys, metrics.call_s).run),
                ],
                # Runs poll until they are settled or handed over.
                [Part("poll turns", None, pacer.aclose)],
                [Part("runs", None, self._drain)],
                # These bring new work, so they stop first.
                [
                    Part("reclaimer", reclaimer.run),
                    # Each is waited for: a claim that is under way still starts its run before the drain.
                    *(
                        Part(f"dispatcher {name}", partial(self._dispatch, dispatcher))
                        for name, dispatcher in self.dispatchers.items()
                    ),
                    Part("copies", copies.run),
                    Part("intake", self.intake.run, self.intake.finish),
                ],
            ],
            # The records of a newer version must not be touched.
            ready=self.probe.checked,
        )
        listen = settings.metrics.listen
        app = health_app(metrics, self.readiness, self._gauges.refresh)
        # A scraper expects this replica at a port that the operator set.
        spare_ports = 0 if listen.port == 0 or "listen" in settings.metrics.model_fields_set else SPARE_PORTS
        self._server = AsgiServer(app, listen.host, listen.port, spare_ports=spare_ports)
        self._stopping = False
        self.left = 0  # number of runs that did not end in time and were handed over

    async def start(self) -> None:
        """Start every part. Redis may still be away: the parts wait for it, and readiness reports it.

        Raises SettingsError if `metrics.listen` cannot be used.
        """
        for route in self.routes.values():
            quotas = [quota.name for quota in route.quotas]
            currency = route.provider.capabilities(route.model).currency
            others = (*route.equals, *route.spares)
            self.metrics.know_route(route.name, route.provider.name, quotas, currency, others)
        await warm_up()
        await self._listen()
        self._parts.start()
        log.info(
            "replica started",
            worker=self.worker,
            routes=list(self.routes),
            metrics=self._server.url + "/metrics",
        )

    async def stop(self) -> None:
        """Stop the parts in order, close every connection, and set `left`."""
        if self._stopping:
            return
        self._stopping = True
        self.metrics.draining.set(1)
        await self._parts.stop()
        try:
            await asyncio.wait_for(self.queue.leave(self.routes), 5)
        except Exception as error:
            # Harmless: idle consumer names without pending entries remain.
            log.warning("could not remove our name from the groups", error=str(error))
        await self._server.stop()
        for provider in {id(route.provider): route.provider for route in self.routes.values()}.values():
            await provider.aclose()
        await self.store.aclose()
        for client in (self._client, self._blocking, self._listener):
            await client.aclose()
        log.info("replica stopped", handed_over=self.left)

    async def _listen(self) -> None:
        wanted = self._server.port
        try:
            await self._server.start()
        except OSError as error:
            raise SettingsError([f"`metrics.listen` (--metrics): {error.strerror}"]) from None
        if wanted not in (0, self._server.port):
            log.warning("another process has the port of /metrics", port=wanted, ours=self._server.url)

    @property
    def metrics_url(self) -> str:
        """The address of /metrics, /healthz and /readyz."""
        return self._server.url

    def readiness(self) -> tuple[bool, str]:
        """Whether this replica is consuming, and the reason in a sentence."""
        if self._stopping:
            return False, "The replica is draining: it takes no new work."
        if self.probe.trouble is not None:
            return False, self.probe.trouble
        if not self.probe.checked.is_set():
            return False, "The schema of the records in Redis is not checked yet; is Redis reachable?"
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

    async def _dispatch(self, dispatcher: Dispatcher) -> None:
        # An operator may have set less than the configuration allows, or paused it.
        await self._quota_book.known.wait()
        await self._pause_book.known.wait()
        await dispatcher.run()

    async def _drain(self) -> None:
        log.info("draining", running=len(self.pool.current()))
        self.left = await self.pool.drain(self.settings.worker.drain_timeout, self._gate.give_up)
