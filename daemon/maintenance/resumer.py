"""Goes on with work whose acceptance broke off, because the process that had it in a request was killed."""

from __future__ import annotations

import asyncio

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from daemon.broker.loops import run_forever
from daemon.intake.acceptance import Acceptor, Verdict
from daemon.queue.steps import Steps
from pixmill.contract import BATCH_TYPE, Batch, Job, Rejection
from pixmill.contract.fields import TRUSTED

log = structlog.get_logger(__name__)

STRANDED_S = 60.0  # a living process accepts a part in far less
LOOK_EVERY_S = 15.0
MOST = 10  # parts at a time


class Resumer:
    """Looks at the journal of acceptances on every replica; each part goes to one of them."""

    def __init__(self, client: Redis, prefix: str, acceptor: Acceptor) -> None:
        self._call = Steps(client, prefix)
        self._acceptor = acceptor

    async def run(self) -> None:
        await run_forever("resumer", self._step)

    async def _step(self) -> None:
        if not await self.resume():
            await asyncio.sleep(LOOK_EVERY_S)

    async def resume(self, age_s: float = STRANDED_S) -> int:
        """Accept parts that have been under way for `age_s`; returns how many there were."""
        parts = await self.take(age_s)
        for name, kind, data in parts:
            try:
                verdict = await self._accept(kind, data)
            except Rejection as rejection:
                # Perhaps a route that only other replicas know: the part stays, and is taken again in a while.
                log.warning(
                    "work cannot be accepted here", part=name, code=rejection.code, field=rejection.field
                )
                continue
            except (RedisError, OSError):
                raise
            except Exception:
                # The others that were taken must not wait for it. It stays, for a replica that can read it.
                log.exception("a bug while accepting work that had broken off", part=name)
                continue
            if verdict in ("conflict", "gone"):
                await self._call("strike", name=name)
            log.info("accepted work whose acceptance had broken off", part=name, verdict=verdict)
        return len(parts)

    async def take(self, age_s: float) -> list[tuple[str, str, bytes]]:
        """Take such parts, which nobody else takes in the next `age_s`: the name, the type and the data of each."""
        rows = await self._call("take_stranded", age_us=round(age_s * 1e6), most=MOST)
        split = [(name.decode(), *entry.partition(b" ")) for name, entry in rows]
        return [(name, kind.decode(), data) for name, kind, _, data in split]

    async def _accept(self, kind: str, data: bytes) -> Verdict:
        # These were checked when they were accepted first. They may be larger than an entry of the jobs stream.
        if kind == BATCH_TYPE:
            batch = Batch.model_validate(orjson.loads(data), context=TRUSTED)
            return await self._acceptor.part(self._acceptor.prepared(batch, {}).begun())
        return await self._acceptor.job(Job.from_spec(data), {}, must_exist=True)
