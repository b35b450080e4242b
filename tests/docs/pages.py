"""Reads the blocks of a page, and runs commands in a folder of their own, as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Block(NamedTuple):
    """A block of a page; `kind` is all of the words after its fence."""

    kind: str
    text: str


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in their order."""
    text = (ROOT / page).read_text("utf-8")
    return [Block(*found) for found in re.findall(r"^```([\w ]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]


def anchors_of(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page, for links into it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run(
    command: str, folder: Path, interpreter: Sequence[str] = ("bash", "-c"), **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, or a program that its interpreter takes as an argument."""
    return subprocess.run(
        [*interpreter, command],
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
