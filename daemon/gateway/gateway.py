"""The collaborators of all endpoints: one object for each process that serves HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from daemon.accounts.routes import Routes
from daemon.callbacks.signing import Webhooks
from daemon.gateway.answering.memory import Memory
from daemon.gateway.callers.keyring import KeyRing, Seal
from daemon.gateway.estimate import Estimates
from daemon.gateway.events.hub import EventHub
from daemon.gateway.events.waiting import Waiting
from daemon.gateway.requests.uploads import Uploads
from daemon.intake.acceptance import Acceptor
from daemon.intake.journal import Journal
from daemon.queue.orders import Orders
from daemon.queue.queue import Queue
from daemon.queue.shared_records import SharedRecords
from daemon.queue.summaries import Summaries
from daemon.settings import Settings
from daemon.storage.object_store import ResultStore
from daemon.telemetry.http_metrics import HttpMetrics
from limiter import Limiter
from pixmill.broker.connect import blocking_client, command_client
from pixmill.records.keys import Keys

ANSWER_S = 1.8  # a caller waits two seconds at most for a Redis that is away
DECODED_AT_ONCE = 2
FORMS_AT_ONCE = 4
CONNECTIONS = 64  # to Redis; more requests at once wait for their turn
NAME = "gateway"  # as a worker's name in the queue; a gateway claims nothing


class Gateway:
    """The things that endpoints work with. `start`, then `stop`; Redis may still be away at the start."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        routes: Routes,
        store: ResultStore,
        webhooks: Webhooks,
        metrics: HttpMetrics,
        on_queued: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.routes = routes
        self.store = store
        self.metrics = metrics
        prefix = settings.redis.prefix
        self.keys = Keys(prefix)
        self.redis = command_client(redis_url, prefix, timeout_s=ANSWER_S, in_turn=CONNECTIONS)
        self._blocking = blocking_client(redis_url, prefix)
        cap = settings.worker.max_backlog_per_tenant
        self.queue = Queue(self.redis, self.keys, NAME, max_backlog_per_tenant=cap)
        self.records = SharedRecords(self.redis, self.keys)
        self.orders = Orders(self.redis, self.keys)
        self.limiter = Limiter(self.redis, prefix)
        self.estimates = Estimates(self.redis, self.records, self.limiter, settings, routes)
        journal = Journal(self.redis, self.keys)
        self.acceptor = Acceptor(self.queue, routes, webhooks, on_queued, journal=journal)
        self.keyring = KeyRing(settings.gateway.keys_file, Seal(self.redis, self.keys.seal))
        self.uploads = Uploads(settings.gateway.max_upload_bytes)
        self.picture_turns = asyncio.Semaphore(DECODED_AT_ONCE)  # a large one takes 200 MB decoded
        self.memory = Memory()
        self.form_turns = asyncio.Semaphore(FORMS_AT_ONCE)  # each has 17 files, and up to 17 MB in memory
        self.summaries = Summaries(self.redis, self.keys)
        self.batch_turn = asyncio.Lock()  # a batch of 64 MiB takes several times that while it is read
        self.hub = EventHub(self.redis, self._blocking, self.keys, metrics)
        self.waiting = Waiting(self.redis, self.keys, self.hub)

    async def start(self) -> None:
        """Begin to read events."""
        await self.hub.start()

    def readiness(self) -> tuple[bool, str]:
        """Whether this gateway serves, and the reason in a sentence."""
        if self.hub.trouble is not None:
            return False, self.hub.trouble
        return True, "serving"

    async def end_streams(self) -> None:
        """End every stream of events and every wait, before the server closes its connections."""
        await self.hub.stop()

    async def stop(self) -> None:
        """Close every connection."""
        for client in (self.redis, self._blocking):
            await client.aclose()


async def gateway_of(request: Request) -> Gateway:
    """The gateway of the app that serves the request, under whatever prefix that app is mounted."""
    # A coroutine, since FastAPI sends each plain function of a dependency to a thread.
    gateway: Gateway = request.app.state.gateway
    return gateway


Here = Annotated[Gateway, Depends(gateway_of)]
