"""Carries out calls in an event loop in a thread of its own, until it is closed or the program ends."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # noqa: F401 - first: at the end of the program, ours then comes before its threads end
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Generic, TypeVar, cast

from pixmill.api.client import CLOSED
from pixmill.errors import PixmillError

T = TypeVar("T")

_OWN_THREAD = (
    "`on_progress` runs in the thread of the client, so it cannot call it: call after it has returned, or "
    "from another thread."
)
_FORKED = "A client does not follow into a forked process: make one in each process."


class LoopThread:
    """An event loop in a thread that begins with the first call. `close` is awaited as the last one."""

    def __init__(self, close: Callable[[], Awaitable[None]]) -> None:
        self._close = close
        self._lock = threading.RLock()  # a watch that is collected may close inside of it
        self._process = 0  # that began the thread: a fork has no threads but its own
        self._thread: threading.Thread | None = None
        self._closed = False
        self._over = threading.Event()  # a `join` that Ctrl-C interrupts takes the thread for ended
        self._failure: BaseException | None = None
        # The calls of the loop, and the end of its thread.
        self._loop: asyncio.AbstractEventLoop
        self._calls: set[asyncio.Task[Any]] = set()
        self._ending: asyncio.Event
        self._main: asyncio.Task[Any]

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of a call. Leaving early, as by Ctrl-C, cancels the call. Raises PixmillError after `close`."""
        future = self.begin(call)
        try:
            return future.result()
        except CancelledError:
            raise PixmillError("The client was closed during the call.") from None
        except BaseException:
            future.cancel()
            raise

    def begin(self, call: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin a call; raises PixmillError where it would never end."""
        trouble = self._trouble()
        if trouble is None:
            with self._lock:
                if not self._closed:
                    if self._thread is None:
                        self._start()
                    return asyncio.run_coroutine_threadsafe(self._tracked(call), self._loop)
                trouble = CLOSED
        call.close()
        raise PixmillError(trouble)

    def drop(self, call: Coroutine[Any, Any, object]) -> None:
        """Begin a call whose end nobody waits for; a client that is closed has no need of it."""
        with suppress(PixmillError):
            self.begin(call)

    def close(self) -> None:
        """Cancel the calls, await the last one, and end the thread; a second close waits for the first.

        Raises the error of the last call. Leaving early, as by Ctrl-C, cancels that, and waits for its end.
        """
        trouble = self._trouble()
        if trouble is _FORKED:
            return  # the connections and the daemon are the parent's
        if trouble is not None:
            raise PixmillError(trouble)
        with self._lock:
            self._closed = True
            if self._thread is None:
                return
        try:
            self._soon(self._ending.set)
            self._over.wait()
        except BaseException:
            self._soon(self._main.cancel)
            self._over.wait()
            raise
        failure, self._failure = self._failure, None
        if isinstance(failure, Exception):
            raise failure

    def _trouble(self) -> str | None:
        """The reason why a call from here would wait for ever."""
        if self._thread is not None and os.getpid() != self._process:
            return _FORKED
        return _OWN_THREAD if threading.current_thread() is self._thread else None

    def _soon(self, call: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(call)

    def _start(self) -> None:
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=[ready], name="pixmill client", daemon=True)
        self._process = os.getpid()
        thread.start()
        ready.wait()
        self._thread = thread
        _RUNNING.add(self)

    def _run(self, ready: threading.Event) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve(ready))
        except BaseException as error:
            self._failure = error  # for `close`
        finally:
            self._closed = True  # also where a callback of the program ended the loop
            _RUNNING.discard(self)
            self._over.set()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        self._main = _this_task()
        ready.set()
        await self._ending.wait()
        calls = tuple(self._calls)
        for call in calls:
            if not call.cancelling():  # one that was left is on its way out
                call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._close()

    async def _tracked(self, call: Coroutine[Any, Any, T]) -> T:
        task = _this_task()
        self._calls.add(task)
        try:
            return await call
        finally:
            self._calls.discard(task)


def _this_task() -> asyncio.Task[Any]:
    return cast("asyncio.Task[Any]", asyncio.current_task())


class Pulled(Generic[T]):
    """The values of an asynchronous generator, one by one. A close waits until a cancelled read has ended."""

    def __init__(self, source: AsyncGenerator[T, None]) -> None:
        self._source = source
        self._turn = asyncio.Lock()

    async def next(self) -> T | None:
        """The next value; None at the end."""
        async with self._turn:
            return await anext(self._source, None)

    async def close(self) -> None:
        """Close the generator."""
        async with self._turn:
            await self._source.aclose()


_RUNNING: set[LoopThread] = set()


def _close_all() -> None:
    """End what is open at the end of the program: a local daemon, above all. Ctrl-C shortens it."""
    for thread in tuple(_RUNNING):
        with suppress(Exception, KeyboardInterrupt):
            thread.close()


# `atexit` is too late: no thread can be started then, and a daemon writes files and ends its server in threads.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
