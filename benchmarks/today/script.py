"""One process of a hand-made strategy, in real time: the strategy's coroutines on a provider behind HTTP.

Run by `real.py` as ``python -m benchmarks.today.script OPTIONS``, a JSON object. It prints `ready`, waits for a line on
its standard input, and prints the number of each picture that it has.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

import httpx2

from benchmarks.today.account import RefusedError
from benchmarks.today.strategies import STRATEGIES, Script
from benchmarks.today.terms import Batch, small

MODEL = "hunyuan-image-3.0"


class HttpAccount:
    """The simulator's wires of OpenAI and of Hunyuan on TokenHub; see Account."""

    def __init__(self, root: str, key: str, batch: Batch) -> None:
        self._root = root
        self._key = key
        self._batch = batch
        self._client = httpx2.AsyncClient(
            timeout=batch.terms.timeout_s, trust_env=False, headers={"authorization": f"Bearer {key}"}
        )

    async def generate(self, picture: int) -> None:
        await self._post(
            "/v1/images/generations", prompt=self._batch.prompt(self._key, picture), size="64x64"
        )

    async def submit(self, picture: int) -> str:
        prompt = self._batch.prompt(self._key, picture)
        answer = await self._post("/v1/api/image/submit", model=MODEL, prompt=prompt, resolution="512:512")
        return str(answer["id"])

    async def is_over(self, task: str) -> bool:
        try:
            answer = await self._post("/v1/api/image/query", model=MODEL, id=task)
        except TimeoutError:
            return False  # the next poll finds it
        if answer["status"] != "completed":
            return False
        (await self._client.get(answer["data"][0]["url"])).raise_for_status()
        return True

    async def _post(self, path: str, **fields: Any) -> dict[str, Any]:
        try:
            answer = await self._client.post(self._root + path, json=fields)
        except httpx2.TransportError:  # a time-out, or a standing connection that was closed
            raise TimeoutError from None
        if answer.status_code == 429:
            wait_ms = answer.headers.get("retry-after-ms")
            raise RefusedError("", None if wait_ms is None else int(wait_ms) / 1000)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document


async def main(options: dict[str, Any]) -> None:
    terms = small(options["account"], options["pictures"])
    batch = Batch.of(terms, options["seed"], bad_day=options["bad_day"])
    strategy, process = STRATEGIES[options["strategy"]], options["process"]
    assert strategy.run is not None
    account = HttpAccount(options["root"], options["key"], batch)
    script = Script(terms, account, lambda picture: print(picture, flush=True), random.Random(str(options)))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await strategy.run(script, strategy.share(process, terms.pictures))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
