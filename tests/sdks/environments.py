"""Make the SDKs' environments before the tests, because a download may take longer than a test may.

Without its environment, an SDK's tests are skipped with a message; in CI (`CI=true`) that is a failure, since skipped
tests there would pass for done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.venvs import python_for
from tests.sdks.node.modules import modules_in

HERE = Path(__file__).parent
VENVS = HERE / ".venvs"
NAMES = sorted(path.stem.removeprefix("requirements-") for path in HERE.glob("requirements-*.txt"))


def python_of(name: str) -> Path:
    """The interpreter of an SDK's environment; raises what `python_for` raises."""
    return python_for(name, HERE, VENVS)


def node_modules() -> Path:
    """The packages of npm; raises what `modules_in` raises."""
    return modules_in(VENVS / "node")


def environment_of(name: str) -> Path:
    """The environment of an SDK, or of `node`."""
    return node_modules() if name == "node" else python_of(name)


def must_be_there() -> bool:
    """Whether a missing environment is a failure."""
    return os.environ.get("CI", "").lower() in ("true", "1")


def make_all(make: Callable[[str], Path] = environment_of) -> int:
    """Make every environment; returns the exit code: 1 where one is missing that must be there."""
    missing = []
    for name in (*NAMES, "node"):
        try:
            make(name)
        except (FileNotFoundError, RuntimeError) as error:
            missing.append(name)
            print(error, file=sys.stderr)
    if not missing:
        return 0
    verdict = "CI needs them" if must_be_there() else "their tests are SKIPPED"
    print(f"SDKs without an environment: {', '.join(missing)}; {verdict}.", file=sys.stderr)
    return 1 if must_be_there() else 0


if __name__ == "__main__":
    sys.exit(make_all())
