"""The simulated provider behind the wires: admits calls, takes its time, draws, and keeps its books."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from providers.simulator.drawing import Drawing, draw
from providers.simulator.faults import Faults
from providers.simulator.ledger import Call, Ledger
from providers.simulator.quotas import Clock, KeyQuotas, Refusal
from providers.simulator.settings import SimulatorSettings


class QuotaExceededError(Exception):
    """A quota turned the call away."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.quota)
        self.refusal = refusal


class Engine:
    """State that all wires share: quotas by key, the ledger, the faults."""

    def __init__(
        self, settings: SimulatorSettings, clock: Clock = time.monotonic, arrived: Clock | None = None
    ) -> None:
        """`arrived` returns the arrival time of the request in hand; by default it is `clock`."""
        self.settings = settings
        self._clock = clock
        self.arrived = arrived or clock
        # One drawing at a time: several would fight over the interpreter, and arrivals would be noticed late.
        self._artist = ThreadPoolExecutor(1, "drawing")
        self.reset()

    def reset(self) -> None:
        """Forget quotas, ledger and faults, as if just started. Calls that still run end in the old books."""
        self.faults = Faults()
        self.ledger = Ledger(self._clock, self.arrived)
        self._quotas: dict[str, KeyQuotas] = {}
        self._requests: Counter[str] = Counter()  # by prompt
        self._random = random.Random(0)  # noqa: S311 (latencies, no secrets)

    def knows(self, key: str) -> bool:
        """Whether calls with this API key are served."""
        return bool(key) if self.settings.api_keys is None else key in self.settings.api_keys

    def moderated(self, prompt: str) -> bool:
        """Whether the prompt holds a word that this provider does not draw."""
        lower = prompt.lower()
        return any(word in lower for word in self.settings.moderation_words)

    @contextmanager
    def admitted(self, call: Call, key: str) -> Iterator[None]:
        """Hold the call's quota and slot inside the block; raises QuotaExceededError if there is none."""
        ledger = self.ledger
        quotas = self._quotas_of(key)
        if refusal := quotas.admit(call.images):
            call.refused = refusal.quota
            raise QuotaExceededError(refusal)
        ledger.admit(call)
        try:
            yield
        finally:
            quotas.leave()

    def left(self, key: str, quota: str) -> int | None:
        """The rest of the key's quota of "requests" or "images"; None: no limit."""
        return self._quotas_of(key).left(quota)

    async def warm_up(self) -> None:
        """Draw once, so that fonts and encoders are loaded before the first call.

        That takes a fifth of a second in which no arrival is noticed. Calls in that time would seem to come late, and
        the calls of the next window too early.
        """
        await asyncio.get_running_loop().run_in_executor(self._artist, draw, Drawing("", 0, 128, 128))

    async def work(self, drawing: Drawing) -> bytes:
        """The picture, after the latency; drawing is a part of it, not on top of it."""
        finish_at = time.monotonic() + self._latency_s(drawing.prompt)
        picture = await asyncio.get_running_loop().run_in_executor(self._artist, draw, drawing)
        await asyncio.sleep(max(0.0, finish_at - time.monotonic()))
        return picture

    def _latency_s(self, prompt: str) -> float:
        timed = re.search(r"takes (\d+(?:\.\d+)?) s", prompt) if self.settings.timed_prompts else None
        return float(timed[1]) if timed else self._random.uniform(*self.settings.latency_s)

    def drawing(self, prompt: str, seed: int | None, size: tuple[int, int], **more: Any) -> Drawing:
        """A picture to draw. A call without a seed gets another one each time that its prompt comes."""
        seed = self._seed_for(prompt) if seed is None else seed
        return Drawing(prompt, seed, *size, plain=self.settings.plain, **more)

    def _seed_for(self, prompt: str) -> int:
        self._requests[prompt] += 1
        digest = hashlib.sha256(f"{self._requests[prompt]}\n{prompt}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:4]) % 1_000_000

    def _quotas_of(self, key: str) -> KeyQuotas:
        return self._quotas.setdefault(key, KeyQuotas(self.settings, self.arrived))
