"""A worker without a provider: each item ends at once as its prompt says, with a real picture where it succeeds."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from daemon.contract import Job
from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome, Succeeded
from daemon.storage.object_store import ResultStore
from providers.simulator.drawing import Drawing, draw
from tests.daemon.live import Decide, by_prompt, image_key

SIDE = 256


def painting(pictures: Path) -> Decide:
    """Items fail where their prompt begins with `bad`, are held for `odd`, and run on for `slow`."""
    store = ResultStore.open(f"file://{pictures}")

    async def decide(item: Claimed, job: Job) -> Outcome | None:
        outcome = await by_prompt(item, job)
        if isinstance(outcome, Succeeded):
            data = await asyncio.to_thread(draw, Drawing(job.prompt, 0, SIDE, SIDE))
            await store.put_image(image_key(item), data)
            digest = hashlib.sha256(data).hexdigest()
            outcome.result["images"][0] |= {
                "width": SIDE,
                "height": SIDE,
                "bytes": len(data),
                "sha256": digest,
            }
        return outcome

    return decide
