"""One installation over its Redis: sends jobs and batches, reads records, follows events.

Errors: `Rejection` for a job that the contract does not allow (nothing was sent), `RejectedError` for a refusal by
a worker, `NotRunningError` without a Redis to talk to, redis-py's own for a lost connection. Writes are sent once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from pixmill.broker.connect import blocking_client, command_client
from pixmill.client.sending import Acceptance, Sender, Sent
from pixmill.client.watching import Start, StreamEvent, Watcher
from pixmill.contract import Batch, Job
from pixmill.errors import NotRunningError
from pixmill.ids import new_id
from pixmill.records.keys import Keys
from pixmill.records.records import GroupView, ItemView, Records, View
from pixmill.results import Result

DATA_DIR = Path(".pixmill")  # the data of `pixmill up`, below the directory it was started in


class Client:
    """One installation, seen by a producer. Use it as an async context manager, or call `aclose`."""

    def __init__(
        self,
        url: str,
        prefix: str = "pixmill",
        *,
        tenant: str = "default",
        patience_s: float | None = None,
        on_trouble: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self.keys = Keys(prefix)
        self.tenant = tenant
        self.redis = command_client(url, prefix)
        self._blocking = blocking_client(url, prefix)
        self.records = Records(self.redis, self.keys)
        self.sender = Sender(self.redis, self.keys)
        self._watcher = Watcher(self.records, self._blocking, patience_s=patience_s, on_trouble=on_trouble)

    @classmethod
    def connect(
        cls, url: str | None = None, prefix: str = "pixmill", *, data_dir: Path = DATA_DIR, **how: Any
    ) -> Self:
        """A client for `url`, or for the `pixmill up` that runs in this directory; raises NotRunningError.

        `how` holds `tenant`, and `patience_s` and `on_trouble` for watches while Redis is away.
        """
        return cls(url or running_url(data_dir), prefix, **how)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self.redis.aclose()
        await self._blocking.aclose()

    # Sending

    async def submit(self, job: Job | Mapping[str, Any], *, wait_accepted_s: float | None = None) -> str:
        """Send a job and return its id (a new one when the mapping has none).

        With `wait_accepted_s`, wait up to that time for intake, and raise RejectedError when it refuses the job.
        """
        if not isinstance(job, Job):
            job = {"id": new_id("job"), "tenant": self.tenant, **job}
        return await self._accepted(await self.sender.job(job), wait_accepted_s)

    async def submit_batch(
        self,
        batch: Batch | Mapping[str, Any],
        items: Iterable[Mapping[str, Any]] | None = None,
        *,
        wait_accepted_s: float | None = None,
    ) -> str:
        """Send a batch of any size and return its id; `items` come from `batch` unless they are given."""
        if isinstance(batch, Batch):
            batch = batch.model_dump(mode="json", exclude_unset=True)
        fields = {"id": new_id("batch"), "tenant": self.tenant, **batch}
        own = fields.pop("items", ())
        sent = await self.sender.batch(fields, list(own if items is None else items))
        return await self._accepted(sent, wait_accepted_s)

    async def acceptance(self, sent: Sent, timeout_s: float = 10.0) -> Acceptance:
        """Intake's reply to a job or batch that `sender` sent."""
        return await self.sender.acceptance(sent, timeout_s)

    async def _accepted(self, sent: Sent, wait_s: float | None) -> str:
        if wait_s is not None:
            (await self.acceptance(sent, wait_s)).unless_rejected()
        return sent.id

    # Reading

    async def status(self, ident: str, *, tenant: str | None = None) -> View | None:
        """A batch, a job, or `BATCH/ITEM`; None when there is no record of it."""
        return await self.records.find(tenant or self.tenant, ident)

    async def watch(
        self, ident: str, *, tenant: str | None = None, start: Start | None = None
    ) -> AsyncIterator[StreamEvent]:
        """The events of a batch or job until it has ended; raises KeyError for an unknown id.

        `start` is the id of the last event seen, "beginning" (the default for a batch) or "now" (for a job).
        A lost connection is opened again, and no event comes twice.
        """
        view = await self.status(ident, tenant=tenant)
        if view is None:
            raise KeyError(ident)
        if isinstance(view, GroupView) and view.kind == "batch":
            events = self._watcher.batch(view, start or "beginning")
        else:
            events = self._watcher.job(view, start or "now")
        async for event in events:
            yield event

    async def results(self, ident: str, *, tenant: str | None = None) -> list[Result]:
        """The result of every picture so far, in their order; raises KeyError for an unknown id."""
        return [Result.from_record(item.as_dict()) for item in await self.items(ident, tenant=tenant)]

    async def items(self, ident: str, *, tenant: str | None = None) -> list[ItemView]:
        """The records behind an id; raises KeyError for an unknown one."""
        view = await self.status(ident, tenant=tenant)
        if view is None:
            raise KeyError(ident)
        return await self.items_of(view)

    async def items_of(self, view: View) -> list[ItemView]:
        """The items of a record that was read."""
        return [view] if isinstance(view, ItemView) else await self.records.all_members(view.gid)


def running_url(data_dir: Path = DATA_DIR) -> str:
    """The address of the Valkey of the `pixmill up` that runs in this directory; raises NotRunningError."""
    url = None
    with suppress(ImportError):  # the embedded server is not available on every platform
        from daemon.broker.embedded import find_running

        url = find_running(data_dir)
    if url is None:
        raise NotRunningError(
            "No Redis is configured, and no `pixmill up` is running here. Start `pixmill up` in this directory, "
            "or name a Redis with --redis-url, PIXMILL_REDIS__URL or `[redis] url` in pixmill.toml."
        )
    return url
