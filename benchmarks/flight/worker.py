"""`pixmill`, which also collects its garbage on SIGUSR1: so two readings of its memory can be compared."""

from __future__ import annotations

import gc
import signal

from daemon.cli.main import run

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: gc.collect())
    run()
