"""One virtual environment for each peer library: their requirements on redis-py exclude each other.

So each peer runs with the newest redis-py that it accepts. uv makes an environment from the peer's pinned
requirements on its first use, and makes it again when they change.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent
VENVS = BENCHMARKS / ".venv-peers"


def python_for(peer: str, folder: Path = BENCHMARKS / "peers") -> Path:
    """The interpreter of a peer's environment, which is created first if it is missing or out of date.

    `folder` has its pinned requirements. Raises FileNotFoundError when uv is missing,
    subprocess.CalledProcessError when uv fails.
    """
    requirements = folder / f"requirements-{peer}.txt"
    venv = VENVS / peer
    python = venv / "bin" / "python"
    stamp = venv / "made-from"
    made_from = f"{sys.version}\n{hashlib.sha256(requirements.read_bytes()).hexdigest()}"
    if not (python.exists() and stamp.exists() and stamp.read_text() == made_from):
        print(f"making the environment of {peer} in {venv}", file=sys.stderr)
        uv = _uv()
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, venv], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", requirements], check=True)
        stamp.write_text(made_from)
    return python


def _uv() -> str:
    own = BENCHMARKS.parent / ".uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise FileNotFoundError("uv makes the environments of the peers: install it, or leave the peers out.")
    return found
