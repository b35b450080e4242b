"""A gateway keeps no heap for each of its threads."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, sys, threading
from daemon.gateway.running import limit_heaps
if sys.argv[1] == "limited":
    limit_heaps()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
at = threading.Barrier(9)
def take():
    libc.malloc(1000)
    at.wait()
    at.wait()
for _ in range(8):
    threading.Thread(target=take).start()
at.wait()
file = libc.fdopen
file.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(file(1, b"w")))
libc.fflush(None)
at.wait()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have one heap")
def test_threads_share_two_heaps() -> None:
    assert heaps("limited") <= 2
    assert heaps("free") > 2


def heaps(how: str) -> int:
    """The heaps of a process with eight threads that have taken memory."""
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.count("<heap nr=")
