"""The vendors' SDKs as tests use them: each in an interpreter of its own, called by lines of JSON.

Their requirements exclude each other and ours, so each has an environment, made from its pinned requirements.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from typing import Any

from tests.sdks.environments import HERE, VENVS, python_of

ANSWER_TIMEOUT_S = 45.0

# Nothing of this machine's configuration, and no way past the loopback address.
_ENVIRONMENT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


class Sdk:
    """One SDK, imported once; `script` is its client among `clients/`. One call at a time."""

    def __init__(self, name: str, script: str) -> None:
        """Raises what `python_of` raises if the environment cannot be made."""
        self._made_of = name, script
        python = python_of(name)
        self._process = subprocess.Popen(
            [python, HERE / "clients" / script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(VENVS), **_ENVIRONMENT},
            cwd=VENVS,
            text=True,
        )

    async def call(self, **fields: Any) -> dict[str, Any]:
        """What came of the call: `ok` with what the SDK returned, or its exception's classes and what it says."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                line = await asyncio.to_thread(self._answer, json.dumps(fields))
        except TimeoutError:
            self.close()  # which ends the thread's wait, too
            raise
        assert line, "the SDK's interpreter has ended; its stderr says why"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def another(self) -> Sdk:
        """The same SDK in one more interpreter."""
        return Sdk(*self._made_of)

    def close(self) -> None:
        """End its interpreter."""
        self._process.kill()
        self._process.wait()

    def _answer(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()
