"""The pages of docs/producers: their blocks as one program, and what they say that it prints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from redis import Redis

from tests.docs.pages import ROOT, blocks_of, run
from tests.e2e.processes import Command

HERE = "http://localhost:8080"


class Fleet(NamedTuple):
    """A running `pixmill up`: its addresses, the one of Redis with the rights of a producer."""

    http: str
    redis: str
    folder: Path


@contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """A `pixmill up` in that folder, until the end."""
    up = Command(["up", "--metrics", "127.0.0.1:0"], folder, PIXMILL_GATEWAY__LISTEN="127.0.0.1:0")
    try:
        up.wait_for("Ctrl-C stops")
        address = up.wait_for("redis://").split()[-1]
        yield Fleet(up.wait_for("  http  ").split()[-1], _for_producers(address), folder)
    finally:
        up.stop()


def _for_producers(address: str) -> str:
    """The address for a user with the rights that deploy/redis/users.acl gives to producers."""
    acl = (ROOT / "deploy" / "redis" / "users.acl").read_text()
    (rules,) = re.findall(r"^user pixmill-producer (.*)$", acl, re.MULTILINE)
    with Redis.from_url(address) as client:
        client.execute_command("ACL", "SETUSER", "producer", *rules.split(), ">secret")
    return address.replace("redis://", "redis://producer:secret@")


def check(page: str, kind: str, fleet: Fleet, interpreter: Sequence[str]) -> None:
    """Run all of the page's blocks of that kind as one program: it prints what its comments with `>` say."""
    program = "\n".join(block.text for block in blocks_of(f"docs/producers/{page}") if block.kind == kind)
    expected = re.findall(r"^(?:#|//) > (.*)$", program, re.MULTILINE)
    assert expected, "the page says what it prints"
    done = run(program.replace(HERE, fleet.http), fleet.folder, interpreter, REDIS_URL=fleet.redis)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == expected
