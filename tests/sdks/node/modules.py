"""The packages of npm that the page for producers in Node needs, from the lock file beside this."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
MADE_FROM = ("package.json", "package-lock.json")


def modules_in(folder: Path, source: Path = HERE) -> Path:
    """The `node_modules` of that folder, which is made first if it is missing or out of date.

    Raises FileNotFoundError when node or npm is missing, RuntimeError with npm's own words when npm fails.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise FileNotFoundError("The page for Node needs node and npm on PATH.")
    stamp = folder / "made-from"
    made_from = hashlib.sha256(b"".join((source / name).read_bytes() for name in MADE_FROM)).hexdigest()
    if not (stamp.exists() and stamp.read_text() == made_from):
        folder.mkdir(parents=True, exist_ok=True)
        for name in MADE_FROM:
            shutil.copy(source / name, folder)
        done = subprocess.run(
            [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"npm could not make the environment of node: {done.stderr.strip()}")
        stamp.write_text(made_from)
    return folder / "node_modules"
