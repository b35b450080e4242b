"""Writes the present numbers into numbers.toml: `python -m tests.counts.dump`. The reasons beside them stay."""

from __future__ import annotations

import asyncio

from daemon.telemetry.logs import configure_logs
from tests.counts.numbers import FILE, counted, kept, written
from tests.servers import RedisServer


def main() -> None:
    configure_logs(level="warning")
    server = RedisServer()
    try:
        now = asyncio.run(counted(server))
    finally:
        server.close()
    text = FILE.read_text("utf-8") if FILE.exists() else ""
    FILE.write_text(written(text, now), "utf-8")
    before, after = kept(text), kept(FILE.read_text("utf-8"))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            print(f"{name}: {before.get(name, 0)} -> {after.get(name, 0)}")


if __name__ == "__main__":
    main()
