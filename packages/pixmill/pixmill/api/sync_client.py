"""The client for programs without an event loop: the same calls, carried out in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pixmill.api.client import ACCEPT_S, LOCAL_DIR, Client
from pixmill.api.tasks import GenerationResult, GenerationTask
from pixmill.api.thread import LoopThread, Pulled
from pixmill.results import Event, OnProgress, Result, Status


class SyncClient:
    """As `Client`, for programs without an event loop. Threads may share it.

    Use it as a context manager, or call `close`. Its calls run in a thread of its own, which also calls `on_progress`.
    Ctrl-C leaves a call at once; the work goes on, and `results` or the same call with the same id has it later. With
    `local` the work goes on while the client is open.

    Example:

        with pixmill.SyncClient("redis://localhost:6379/0") as client:
            results = client.generate_batch(["a red kettle", "a blue kettle"])
    """

    def __init__(
        self, where: str, *, key: str | None = None, tenant: str | None = None, prefix: str = "pixmill"
    ) -> None:
        self._run_on(Client(where, key=key, tenant=tenant, prefix=prefix))

    @classmethod
    def local(
        cls, config: str | Path | None = None, *, data_dir: str | Path = LOCAL_DIR, tenant: str = "default"
    ) -> Self:
        """As `Client.local`: a daemon in this process. Raises NotInstalledError without pixmill-daemon.

        Example:

            with pixmill.SyncClient.local() as client:
                print(client.generate("a red kettle").url)
        """
        client = cls.__new__(cls)
        client._run_on(Client.local(config, data_dir=data_dir, tenant=tenant))  # noqa: SLF001 - its own
        return client

    def _run_on(self, client: Client) -> None:
        self._client = client
        self._thread = LoopThread(client.aclose)
        self._now = self._thread.run

    @property
    def max_concurrent_jobs(self) -> int | None:
        """The most pictures at once of each later batch of tasks; None: what the quotas allow."""
        return self._client.max_concurrent_jobs

    @max_concurrent_jobs.setter
    def max_concurrent_jobs(self, value: int | None) -> None:
        self._client.max_concurrent_jobs = value

    @property
    def max_retries(self) -> int | None:
        """The retries of real failures in each later batch of tasks; None: what the daemon allows."""
        return self._client.max_retries

    @max_retries.setter
    def max_retries(self, value: int | None) -> None:
        self._client.max_retries = value

    def __enter__(self) -> Self:
        """Raises PixmillError for a client that was closed: each is opened once."""
        try:
            self._now(self._client.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and end the daemon of `local`: it finishes running calls, for up to two minutes.

        Calls of other threads end with PixmillError, and so does each later call. The end of the program closes a
        client that is open. Ctrl-C meanwhile cuts those calls short.
        """
        self._thread.close()

    def submit(self, job: str | Mapping[str, Any], *, wait_s: float = ACCEPT_S, **fields: Any) -> str:
        """As `Client.submit`: send a job, and return its id once it is accepted.

        Example:

            id = client.submit("a red kettle", size="1024x1024")
        """
        return self._now(self._client.submit(job, wait_s=wait_s, **fields))

    def submit_batch(
        self,
        items: Iterable[str | Mapping[str, Any]],
        *,
        id: str | None = None,  # noqa: A002 - the name of the field
        wait_s: float = ACCEPT_S,
        **defaults: Any,
    ) -> str:
        """As `Client.submit_batch`: send a batch, and return its id once it is accepted.

        Example:

            id = client.submit_batch([{"id": "sku1", "prompt": "a kettle"}], id="spring")
        """
        return self._now(self._client.submit_batch(items, id=id, wait_s=wait_s, **defaults))

    def status(self, id: str) -> Status | None:  # noqa: A002 - as above
        """As `Client.status`: how far it is.

        Example:

            status = client.status("spring")
        """
        return self._now(self._client.status(id))

    def results(self, id: str) -> list[Result]:  # noqa: A002 - as above
        """As `Client.results`: the result of every picture so far.

        Example:

            made = [result for result in client.results("spring") if result.ok]
        """
        return self._now(self._client.results(id))

    def watch(self, id: str, *, after: str | None = None) -> Iterator[Event]:  # noqa: A002 - as above
        """As `Client.watch`: the events to its end.

        Example:

            for event in client.watch("spring"):
                print(event.type)
        """
        events = Pulled(self._client.watch(id, after=after))
        try:
            while (event := self._now(events.next())) is not None:
                yield event
        finally:
            self._thread.drop(events.close())

    def wait(self, id: str, *, on_progress: OnProgress | None = None) -> list[Result]:  # noqa: A002 - as above
        """As `Client.wait`: the results when all has ended.

        Example:

            results = client.wait("spring")
        """
        return self._now(self._client.wait(id, on_progress=on_progress))

    def picture(self, result: Result) -> bytes:
        """As `Client.picture`: the bytes of a picture.

        Example:

            Path("kettle.png").write_bytes(client.picture(result))
        """
        return self._now(self._client.picture(result))

    def cancel(self, id: str) -> None:  # noqa: A002 - as above
        """As `Client.cancel`: cancel what has not ended.

        Example:

            client.cancel("spring")
        """
        self._now(self._client.cancel(id))

    def retry(self, id: str) -> None:  # noqa: A002 - as above
        """As `Client.retry`: make failed pictures again.

        Example:

            client.retry("spring")
        """
        self._now(self._client.retry(id))

    def generate(self, prompt: str, *, wait_s: float = ACCEPT_S, **fields: Any) -> Result:
        """As `Client.generate`: make one picture.

        Example:

            result = client.generate("a red kettle")
        """
        return self._now(self._client.generate(prompt, wait_s=wait_s, **fields))

    def generate_batch(
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
        """As `Client.generate_batch`: make pictures of prompts, a result for each.

        Example:

            results = client.generate_batch("a red kettle", 4, {"seed": 0})
        """
        return self._now(
            self._client.generate_batch(
                prompts,
                count,
                options,
                on_progress,
                batch_id=batch_id,
                concurrency=concurrency,
                batch_delay=batch_delay,
                wait_s=wait_s,
                **defaults,
            )
        )

    def generate_image(
        self,
        prompt: str,
        resolution: str | None = None,
        output_path: str | Path | None = None,
        *,
        task_id: str | None = None,
        **fields: Any,
    ) -> GenerationResult:
        """As `Client.generate_image`: make one picture and write it to a new file.

        Example:

            result = client.generate_image("a red kettle", "1024:1024", "out/kettle.png")
        """
        return self._now(
            self._client.generate_image(prompt, resolution, output_path, task_id=task_id, **fields)
        )

    def generate_batch_sync(
        self,
        tasks: Sequence[GenerationTask],
        *,
        batch_id: str | None = None,
        on_progress: OnProgress | None = None,
        max_concurrent_jobs: int | None = None,
        max_retries: int | None = None,
    ) -> list[GenerationResult]:
        """As `Client.generate_batch_async`: make all tasks, a result for each.

        Example:

            results = client.generate_batch_sync([GenerationTask("a kettle"), GenerationTask("a cup")])
        """
        return self._now(
            self._client.generate_batch_async(
                tasks,
                batch_id=batch_id,
                on_progress=on_progress,
                max_concurrent_jobs=max_concurrent_jobs,
                max_retries=max_retries,
            )
        )

    async def generate_batch_async(
        self,
        tasks: Sequence[GenerationTask],
        *,
        batch_id: str | None = None,
        on_progress: OnProgress | None = None,
        max_concurrent_jobs: int | None = None,
        max_retries: int | None = None,
    ) -> list[GenerationResult]:
        """The same for a program that has an event loop after all; other tasks of it go on meanwhile.

        Example:

            results = await client.generate_batch_async([GenerationTask("a kettle")])
        """
        work = self._client.generate_batch_async(
            tasks,
            batch_id=batch_id,
            on_progress=on_progress,
            max_concurrent_jobs=max_concurrent_jobs,
            max_retries=max_retries,
        )
        return await asyncio.wrap_future(self._thread.begin(work))
