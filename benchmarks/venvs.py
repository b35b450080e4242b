"""One virtual environment for each peer library: their requirements on redis-py exclude each other.

So each peer runs with the newest redis-py that it accepts. uv makes an environment from the peer's pinned
requirements on its first use, and makes it again when they change. The vendors' SDKs, which the tests run, exclude
each other in the same way and live in environments made here too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

BENCHMARKS = Path(__file__).parent
VENVS = BENCHMARKS / ".venv-peers"


def python_for(peer: str, folder: Path = BENCHMARKS / "peers", venvs: Path = VENVS) -> Path:
    """The interpreter of a peer's environment, which is created first if it is missing or out of date.

    `folder` has its pinned requirements, `venvs` the environments. Raises FileNotFoundError when uv is missing,
    RuntimeError with uv's own words when uv fails.
    """
    requirements = folder / f"requirements-{peer}.txt"
    venv = venvs / peer
    python = venv / "bin" / "python"
    stamp = venv / "made-from"
    made_from = f"{sys.version}\n{hashlib.sha256(requirements.read_bytes()).hexdigest()}"
    if not (python.exists() and stamp.exists() and stamp.read_text() == made_from):
        print(f"making the environment of {peer} in {venv}", file=sys.stderr)
        uv = _uv()
        _run(peer, uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv)
        _run(peer, uv, "pip", "install", "--quiet", "--python", python, "-r", requirements)
        stamp.write_text(made_from)
    return python


def plain_python() -> Path:
    """The interpreter of an installation without extras and without what tests need, such as a user has.

    redis-py imports the SDK of OpenTelemetry wherever that is installed, so the tests' environment starts slowly.
    Raises what `python_for` raises.
    """
    venv = BENCHMARKS / ".venv-plain"
    environ = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(venv)}
    _run(
        "Pixmill",
        _uv(),
        "sync",
        "--quiet",
        "--frozen",
        "--no-dev",
        "--python",
        sys.executable,
        environ=environ,
    )
    return venv / "bin" / "python"


def _run(peer: str, *command: str | Path, environ: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=BENCHMARKS.parent, env=environ, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"uv could not make the environment of {peer}: {done.stderr.strip()}")


def _uv() -> str:
    own = BENCHMARKS.parent / ".uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise FileNotFoundError("uv makes the environments of the peers: install it, or leave the peers out.")
    return found
