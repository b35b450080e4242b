"""The asynchronous client of producers, the same over Redis, over a gateway, and with a daemon in this process."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pixmill.api.items import batch_items, head_of
from pixmill.api.patience import patiently
from pixmill.api.tasks import MOST_AT_ONCE, GenerationResult, GenerationTask, batch_name, run_tasks
from pixmill.errors import NotFoundError, NotRunningError, PixmillError, RejectedError, naming
from pixmill.ids import new_id
from pixmill.results import Event, OnProgress, Result, Status

if TYPE_CHECKING:
    from pixmill.transports.base import Transport

ACCEPT_S = 30.0
CLOSED = "The client is closed: make a new one."
LOCAL_DIR = ".pixmill"

# Events after which the counts may be others, or nothing goes on without a person.
_CHANGES = frozenset(
    {
        "job.succeeded",
        "job.failed",
        "job.cancelled",
        "job.expired",
        "job.held",
        "batch.accepted",
        "batch.finished",
    }
)


class Client:
    """One installation, seen by a producer. Use it as an asynchronous context manager, or call `aclose`.

    `where` is `redis://…` (also `rediss://`, Sentinels and clusters) or `https://…` of a gateway with its `key`.
    `tenant` is yours by the key; over Redis it is "default". `prefix` is that of the keys in Redis.
    Nothing is sent before the first call. Errors are those of `PixmillError`.

    Example:

        async with pixmill.Client("redis://localhost:6379/0") as client:
            results = await client.generate_batch(["a red kettle", "a blue kettle"])
    """

    # The limits of batches of tasks, unless a call names its own.
    max_concurrent_jobs: int | None = None
    max_retries: int | None = None
    _transport: Transport
    _is_open = _is_closed = False
    _loop: asyncio.AbstractEventLoop | None = None
    _opening: asyncio.Lock

    def __init__(
        self, where: str, *, key: str | None = None, tenant: str | None = None, prefix: str = "pixmill"
    ) -> None:
        self._transport = _transport(where, key, tenant, prefix)

    @classmethod
    def local(
        cls, config: str | Path | None = None, *, data_dir: str | Path = LOCAL_DIR, tenant: str = "default"
    ) -> Self:
        """A client with a daemon in this process, which needs the package pixmill-daemon; raises NotInstalledError.

        `config` is a pixmill.toml. Without accounts it makes the pictures of a simulator. Its data are in `data_dir`,
        so work that was left goes on at the next start. The daemon runs while the client is open.

        Example:

            async with pixmill.Client.local() as client:
                result = await client.generate("a red kettle")
        """
        from pixmill.transports.local import LocalTransport

        client = cls.__new__(cls)
        place = None if config is None else Path(config)
        client._transport = LocalTransport(place, Path(data_dir), tenant)  # noqa: SLF001 - its own
        return client

    async def __aenter__(self) -> Self:
        """Raises PixmillError for a client that was closed: each is opened once."""
        await self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, and end the daemon of `local`: it finishes running calls, for up to two minutes.

        The client cannot be used again.
        """
        self._is_closed = True
        if self._loop is not None:
            async with self._opening:  # an opening that is under way ends first
                await self._transport.close()

    async def _opened(self) -> Transport:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._opening = loop, asyncio.Lock()
        if self._loop is not loop and not self._is_closed:
            raise PixmillError(
                "The client belongs to the event loop of its first call: make one for each loop."
            )
        async with self._opening:
            if self._is_closed:
                raise PixmillError(CLOSED)
            if not self._is_open:
                await self._transport.open()
                self._is_open = True
        return self._transport

    # Sending

    async def submit(self, job: str | Mapping[str, Any], *, wait_s: float = ACCEPT_S, **fields: Any) -> str:
        """Send a job, a prompt or job fields, and return its id once it is accepted.

        The same id and content again is the same job, and buys nothing. Raises RejectedError for a job that is not
        allowed, NotTakenError if no worker takes it in `wait_s` seconds: it stays there.

        Example:

            id = await client.submit("a red kettle", size="1024x1024")
        """
        given = {"prompt": job} if isinstance(job, str) else dict(job)
        body = {"id": new_id("job"), **given, **fields}
        with naming(str(body["id"])):
            await (await self._opened()).submit(body, wait_s)
        return str(body["id"])

    async def submit_batch(
        self,
        items: Iterable[str | Mapping[str, Any]],
        *,
        id: str | None = None,  # noqa: A002 - the name of the field
        wait_s: float = ACCEPT_S,
        **defaults: Any,
    ) -> str:
        """Send prompts, or items of job fields, as one batch, and return its id once it is accepted.

        `defaults` are job fields of all, such as `route`; `max_in_flight`, `callback` and `metadata` are the batch's.
        A mapping is a batch of one item. Errors as for `submit`; `is_partial` of a RejectedError says whether workers
        took parts of it before one was refused.

        Example:

            id = await client.submit_batch([{"id": "sku1", "prompt": "a kettle"}], id="spring", route="default")
        """
        ident, rows = id or new_id("batch"), batch_items(items)
        with naming(ident):
            transport = await self._opened()
            try:
                await transport.submit_batch(head_of(ident, defaults), rows, wait_s)
            except RejectedError as error:
                # Parts that wait for room are worth keeping only if their caller can send this id again.
                if error.is_partial and (id is None or error.code != "backlog_full"):
                    with suppress(NotFoundError):
                        await transport.cancel(ident)
                raise
        return ident

    # Reading

    async def status(self, id: str) -> Status | None:  # noqa: A002 - as above
        """How far a batch, a job or `BATCH/ITEM` is; None if there is no record of it.

        Example:

            status = await client.status("spring")
        """
        return await (await self._opened()).status(id)

    async def results(self, id: str) -> list[Result]:  # noqa: A002 - as above
        """The result of every picture so far, in their order; raises NotFoundError.

        Example:

            made = [result for result in await client.results("spring") if result.ok]
        """
        return await (await self._opened()).results(id)

    async def watch(self, id: str, *, after: str | None = None) -> AsyncGenerator[Event, None]:  # noqa: A002 - as above
        """The events of a batch or job until it has ended; raises NotFoundError.

        `after` is the id of the last event that you have. A lost connection is opened again.

        Example:

            async for event in client.watch("spring"):
                print(event.type, event.data["item"])
        """
        async for event in (await self._opened()).watch(id, after):
            yield event

    async def wait(self, id: str, *, on_progress: OnProgress | None = None) -> list[Result]:  # noqa: A002 - as above
        """The results when all has ended, or when only a person can go on; raises NotFoundError.

        `on_progress(done, total)` is called for each picture. Leaving early stops nothing.

        Example:

            results = await client.wait("spring", on_progress=lambda done, total: print(done, "of", total))
        """
        transport, reported = await self._opened(), 0
        async for event in transport.watch(id, None):
            status = await patiently(partial(transport.status, id)) if event.type in _CHANGES else None
            if status is None:
                continue
            while reported < status.done:
                reported += 1
                await _call(on_progress, reported, status.total)
            if status.ended or status.needs_person:
                break
        return await patiently(partial(transport.results, id))

    async def picture(self, result: Result) -> bytes:
        """The bytes of a picture; raises OutputError, and NotFoundError for a result without one.

        Example:

            Path("kettle.png").write_bytes(await client.picture(result))
        """
        if not result.images:
            raise NotFoundError(f'"{result.id}" has no picture: it is {result.state}.')
        return await (await self._opened()).picture(result.images[0])

    # Orders

    async def cancel(self, id: str) -> None:  # noqa: A002 - as above
        """Cancel what has not ended; running pictures that are paid are kept. Raises NotFoundError.

        Example:

            await client.cancel("spring")
        """
        await (await self._opened()).cancel(id)

    async def retry(self, id: str) -> None:  # noqa: A002 - as above
        """Make failed pictures again; those that are there stay. Raises NotFoundError.

        Example:

            await client.retry("spring")
        """
        await (await self._opened()).retry(id)

    # From prompts to results

    async def generate(self, prompt: str, *, wait_s: float = ACCEPT_S, **fields: Any) -> Result:
        """Make one picture; a picture that failed is a Result with its error. Errors as for `submit`.

        `id` is that of a job: the same id and content again buys nothing. More pictures are `generate_batch`.

        Example:

            result = await client.generate("a red kettle", size="1024x1024")
        """
        if fields.get("n", 1) != 1:
            sentence = "`generate` returns one picture: use generate_batch(prompt, count) for more."
            raise RejectedError(sentence, "invalid", "n")
        ident = await self.submit(prompt, wait_s=wait_s, **fields)
        with naming(ident):
            return (await self.wait(ident))[0]

    async def generate_batch(
        self,
        prompts: str | Iterable[str | Mapping[str, Any]],
        count: int | None = None,
        options: Mapping[str, Any] | None = None,
        on_progress: OnProgress | None = None,
        *,
        batch_id: str | None = None,
        concurrency: int | None = None,
        batch_delay: float = 0.0,
        wait_s: float = ACCEPT_S,
        **defaults: Any,
    ) -> list[Result]:
        """Make pictures of prompts, or of items with job fields; returns a result for each, in their order.

        A picture that failed is a Result with its error beside the good ones, so no picture is lost. One prompt with
        `count` makes that many. `options` are `width`, `height`, `seed` (picture i gets `seed + i`; 0 is a seed),
        `negative_prompt`, and parameters of the model such as `guidance_scale`. `concurrency` is the most pictures at
        once, 1 to 100. Picture i starts `i * batch_delay` seconds from now, or later; quotas hold without it.
        The same `batch_id` and content again buys nothing, and returns the same results. `concurrency` and all
        `defaults` belong to the content. Leaving early stops nothing.
        `on_progress(done, total)` is called for each picture. Errors as for `submit`, before anything is made.

        Example:

            results = await client.generate_batch("a red kettle", 4, {"seed": 0, "width": 1024, "height": 1024})
        """
        if batch_id is not None and batch_delay > 0:
            sentence = (
                "Its times would differ at each sending, so a batch with an id can have no batch_delay."
            )
            raise RejectedError(sentence, "invalid", "batch_delay")
        items = batch_items(prompts, count, options, batch_delay)
        if not items:
            return []
        if concurrency is not None:
            if not 1 <= concurrency <= MOST_AT_ONCE:
                raise RejectedError(f"`concurrency` is 1 to {MOST_AT_ONCE}.", "invalid", "concurrency")
            defaults["max_in_flight"] = concurrency
        ident = await self.submit_batch(items, id=batch_id, wait_s=wait_s, **defaults)
        with naming(ident):
            return await self.wait(ident, on_progress=on_progress)

    # The names of older clients

    async def generate_image(
        self,
        prompt: str,
        resolution: str | None = None,
        output_path: str | Path | None = None,
        *,
        task_id: str | None = None,
        **fields: Any,
    ) -> GenerationResult:
        """Make one picture and write it to a new file; never raises for the picture itself.

        `resolution` is "1024:1024" or a ratio. The same `task_id` and content again buys nothing. `fields` are those
        of a GenerationTask.

        Example:

            result = await client.generate_image("a red kettle", "1024:1024", "out/kettle.png")
        """
        task = GenerationTask(prompt, resolution, output_path=output_path, task_id=task_id, **fields)
        return (await self.generate_batch_async([task], batch_id=task_id and batch_name(task_id)))[0]

    async def generate_batch_async(
        self,
        tasks: Sequence[GenerationTask],
        *,
        batch_id: str | None = None,
        on_progress: OnProgress | None = None,
        max_concurrent_jobs: int | None = None,
        max_retries: int | None = None,
    ) -> list[GenerationResult]:
        """Make all tasks; returns a result for each, in their order. A task that failed raises nothing.

        The same `batch_id`, tasks and limits again buys nothing: it waits for the rest, and returns all. Without
        `batch_id`, each call is new work, and a task whose file exists is refused, as is a second task for one file.
        `max_concurrent_jobs` lowers the pictures of this batch at once. `max_retries` are those of real failures: a
        throttled call costs none. Raises UnavailableError, AccessError, and RejectedError for a batch that is wrong
        as a whole, such as an id with other tasks or limits, or more than 100 tasks that are not allowed. Over Redis,
        a worker refuses a batch of more than 1000 tasks as a whole, and what other workers took of it is cancelled.

        Example:

            results = await client.generate_batch_async([GenerationTask("a kettle"), GenerationTask("a cup")])
        """
        return await run_tasks(
            self,
            tasks,
            batch_id=batch_id,
            on_progress=on_progress,
            max_concurrent_jobs=self.max_concurrent_jobs
            if max_concurrent_jobs is None
            else max_concurrent_jobs,
            max_retries=self.max_retries if max_retries is None else max_retries,
        )


async def _call(on_progress: OnProgress | None, done: int, total: int) -> None:
    if on_progress is not None:
        awaited = on_progress(done, total)
        if inspect.isawaitable(awaited):
            await awaited


def _transport(where: str, key: str | None, tenant: str | None, prefix: str) -> Transport:
    """The way to an address. A library is imported only for its own."""
    if where.startswith(("https://", "http://")):
        from pixmill.transports.over_http import GatewayTransport

        return GatewayTransport(where, key, tenant)
    if "://" not in where:
        raise NotRunningError("An address begins with redis://, rediss:// or https://; there is none here.")
    from pixmill.transports.over_redis import RedisTransport

    return RedisTransport(where, prefix, tenant or "default")
