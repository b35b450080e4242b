"""A worker without a provider: each item ends at once as its prompt says, with a real picture where it succeeds."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Failed, Outcome, Retry, Succeeded, Throttled
from daemon.storage.object_store import ResultStore
from pixmill.contract import Job
from providers.simulator.drawing import Drawing, draw
from tests.daemon.live import Decide, by_prompt, image_key

SIDE = 256
TROUBLES: dict[str, Outcome] = {
    "lost": Failed({"kind": "provider_timeout", "message": "No reply came in time.", "charged": "maybe"}),
    "busy": Throttled({"kind": "rate_limited", "message": "Too many requests.", "charged": "no"}, 600),
    "weak": Retry({"kind": "overloaded", "message": "The model is overloaded.", "charged": "no"}, 600),
}


def painting(pictures: Path) -> Decide:
    """A prompt that begins with `bad` fails, with `odd` is held, with `slow` runs on; TROUBLES has the others."""
    store = ResultStore.open(f"file://{pictures}")

    async def decide(item: Claimed, job: Job) -> Outcome | None:
        outcome = TROUBLES.get(job.prompt[:4]) or await by_prompt(item, job)
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
