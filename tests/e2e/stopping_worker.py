"""A worker whose items stand still at the step that their ids name, so that it can be killed with each at its own.

`python -m tests.e2e.stopping_worker POINTS worker --config ...`; an item named `ROUTE-POINT-...` whose point is one of
POINTS (by comma) goes no further than that, and `reached ITEM` is printed. With `asleep` among POINTS the whole process
stops there instead (SIGSTOP), and goes on when it is woken. All else is the real worker.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from daemon.cli.main import run
from daemon.queue.messages import Noted
from daemon.queue.queue import Queue
from daemon.worker.download import Download
from daemon.worker.executor import Executor
from daemon.worker.permits import CallPermits
from daemon.worker.pool import Pool
from providers.base import PollPlan
from providers.hunyuan.provider import HunyuanProvider
from providers.modelscope import provider as zimage

POINTS = frozenset(sys.argv.pop(1).split(","))
# A step has its answer before the answer is stored; "twice" stands there in every run.
STEPS = {"twice": "answer"}

tasks: dict[str, str] = {}


def stands_at(uid: str, step: str) -> bool:
    item = uid.rpartition("/")[2]
    point = item.split("-")[1]
    if point not in POINTS or STEPS.get(point, point) != step:
        return False
    print(f"reached {item}.", flush=True)
    return True


async def stand() -> None:
    if "asleep" in POINTS:
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        await asyncio.Event().wait()


def stopping_after(owner: type, method: str, step: str, uid_of: Callable[..., str]) -> None:
    """Let `owner.method` do its work and never return to the items of this step."""
    real: Callable[..., Awaitable[Any]] = getattr(owner, method)

    async def stopped(*args: Any, **kwargs: Any) -> Any:
        result = await real(*args, **kwargs)
        if stands_at(uid_of(*args), step):
            await stand()
        return result

    setattr(owner, method, stopped)


def remembering_tasks() -> None:
    real = Queue.note_receipt

    async def note(self: Queue, item: Any, receipt: bytes) -> Noted:
        tasks[orjson.loads(receipt)["task_id"]] = item.uid
        return await real(self, item, receipt)

    Queue.note_receipt = note  # type: ignore[method-assign]  # what this module is for


def reporting_settles() -> None:
    real = Pool._count

    def count(self: Pool, run: Any, *settled: Any) -> None:
        real(self, run, *settled)
        stands_at(run.item.uid, "settle")

    setattr(Pool, "_count", count)  # noqa: B010 - types would forbid it


remembering_tasks()
reporting_settles()
# Its claim may have noted the intent already.
stopping_after(CallPermits, "note_intent", "intent", lambda _self, run: run.item.uid)
# The connection is open, and the first byte is about to leave.
stopping_after(CallPermits, "_surely_ours", "connect", lambda _self, run, _rtt_s: run.item.uid)
stopping_after(Executor, "_submit", "answer", lambda _self, run, *_: run.item.uid)
stopping_after(Queue, "note_receipt", "receipt", lambda _self, item, _receipt: item.uid)
for provider in (zimage.ZImageProvider, HunyuanProvider):
    stopping_after(provider, "poll", "poll", lambda _self, submitted: tasks.get(submitted.task_id, "/-none"))
stopping_after(Download, "fetch", "download", lambda _self, run, *_: run.item.uid)
stopping_after(Executor, "_keep", "store", lambda _self, run, *_: run.item.uid)
zimage.POLL_PLAN = PollPlan(first_s=0.2, longest_s=0.5)

if __name__ == "__main__":
    run()
