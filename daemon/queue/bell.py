"""The doorbell: a pub/sub channel that says "look now". It only saves time: every waiter also looks by itself.

Messages: `work ROUTE` (items were queued), `work cached` (items that need a copy alone), `callback` (one is due),
`pause` (the fleet or a route was paused or resumed), `slot HOLDER...` (places in flight are free: it is the turn of
these dispatchers, see limiter/waits.py), `cancel UID` (stop that item), `quota NAME [UNTIL_US [AFTER_US]]` (the
provider refused a call, a call left late, or an operator set, paused or resumed the quota; see limiter/waits.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis

from daemon.broker.loops import run_forever, wait_for_event
from limiter import Places, Recalls
from pixmill.records.keys import CACHED

LOOK_EVERY_S = 1.0  # how often each waiter looks without the doorbell
POLL_S = 5.0  # below the client's socket timeout, so a quiet channel is not taken for a dead one


class Bell:
    """One subscription a replica; dispatchers wait on it by route."""

    def __init__(
        self,
        client: Redis,
        channel: str,
        recalls: Recalls,
        places: Places,
    ) -> None:
        self.recalls = recalls
        self.places = places
        self.listening = False
        self._client = client
        self._channel = channel
        self.on_cancel: Callable[[str], None] = lambda _uid: None  # set by the pool of this replica's runs
        self._rung: dict[str, asyncio.Event] = {}
        self.copies_rung = asyncio.Event()  # for the copies
        self.quota_rung = asyncio.Event()  # for the quota book
        self.pause_rung = asyncio.Event()  # for the pause book
        self.callback_rung = asyncio.Event()  # for the callbacks

    def of(self, route: str) -> asyncio.Event:
        """The event that is set when the route should be looked at."""
        return self._rung.setdefault(route, asyncio.Event())

    async def wait(self, route: str, timeout_s: float) -> None:
        """Wait until the bell rings for the route, or `timeout_s` has passed."""
        event = self.of(route)
        await wait_for_event(event, timeout_s)
        event.clear()

    async def wait_for_copies(self, timeout_s: float) -> None:
        """Wait until there may be copies to make or room for them, or `timeout_s` has passed."""
        await wait_for_event(self.copies_rung, timeout_s)
        self.copies_rung.clear()

    def ring_all(self) -> None:
        """Wake every dispatcher of this replica that waits for work or a worker slot."""
        for event in self._rung.values():
            event.set()

    def ring_everybody(self) -> None:
        """Wake every dispatcher of this replica, also those that wait for a place in flight, and the copies."""
        self.ring_all()
        self.places.wake_all()
        self.copies_rung.set()

    async def run(self) -> None:
        await run_forever("bell", self._listen)

    async def _listen(self) -> None:
        async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(self._channel)
            # Messages before the subscription are lost, so every waiter looks once.
            self.recalls.note_gap()
            self.ring_everybody()
            self.listening = True
            try:
                while True:
                    message = await pubsub.get_message(timeout=POLL_S)
                    if message is not None:
                        self._pass_on(message["data"].decode())
            finally:
                self.listening = False

    def _pass_on(self, message: str) -> None:
        what, _, name = message.partition(" ")
        if self.places.note(message):
            return
        if self.recalls.note(message):
            if " " not in name:  # not a refusal: an operator may have changed the quota
                self.quota_rung.set()
            return
        if what == "work":
            self.of(name).set()  # `cached` may be a route, too
            if name == CACHED:
                self.copies_rung.set()
        elif what == "pause":
            self.pause_rung.set()
        elif what == "callback":
            self.callback_rung.set()
        elif what == "cancel":
            self.on_cancel(name)
