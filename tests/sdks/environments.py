"""Makes the environments that the SDKs live in: before the tests, because a download may take longer than a test may.

One that cannot be made is no failure here: the tests that need it are skipped with the reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.venvs import python_for

HERE = Path(__file__).parent
VENVS = HERE / ".venvs"
NAMES = sorted(path.stem.removeprefix("requirements-") for path in HERE.glob("requirements-*.txt"))


def python_of(name: str) -> Path:
    """The interpreter of an SDK's environment; raises what `python_for` raises."""
    return python_for(name, HERE, VENVS)


if __name__ == "__main__":
    for wanted in NAMES:
        try:
            python_of(wanted)
        except (FileNotFoundError, RuntimeError) as error:
            print(error, file=sys.stderr)
