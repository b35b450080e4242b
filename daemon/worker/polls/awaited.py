"""Whether somebody waits for a task to end: then it is polled more often, and its end is noticed sooner."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.worker.dispatcher import Dispatcher
from daemon.worker.run import Run
from pixmill.contract import Job
from pixmill.records.keys import Uid


class Awaited:
    """`dispatchers` are those of this replica, by route."""

    def __init__(self, dispatchers: Mapping[str, Dispatcher]) -> None:
        self._dispatchers = dispatchers

    def __call__(self, run: Run, job: Job) -> bool:
        """Whether a person waits for the picture, or a queued item for the place in flight or for the worker."""
        if job.priority == "high" or not Uid.parse(run.item.uid).batch:
            return True
        quotas = {quota.name for quota in run.route.quotas}
        return any(dispatcher.lacks_place(quotas) for dispatcher in self._dispatchers.values())
