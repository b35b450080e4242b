"""Builds the `redis-cli` command line for the Redis of a URL, for people to paste."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from redis.asyncio.connection import parse_url

from pixmill.broker.redis_url import RedisAddress, read_redis_url


def redis_cli(url: str) -> str:
    """The words before the command. The password is read from $REDISCLI_AUTH and never shown."""
    address = read_redis_url(url)
    if address.topology == "single":
        where: Mapping[str, Any] = parse_url(url)
        words = _of_one(where)
    else:
        where = address.options
        words = _of_master(address) if address.topology == "sentinel" else _of_cluster(address)
    if db := where.get("db"):
        words += ["-n", str(db)]
    if address.tls:
        words.append("--tls")
    variable = ""
    if where.get("password"):
        variable = 'REDISCLI_AUTH="$REDIS_PASSWORD" '
        # Show the user only beside a password: alone it may be a token in the wrong place.
        words += ["--user", shlex.quote(user)] if (user := where.get("username")) else []
    return f"{variable}redis-cli {' '.join(words)}"


def _of_one(where: Mapping[str, Any]) -> list[str]:
    if path := where.get("path"):
        return ["-s", shlex.quote(path)]
    host = where.get("host", "localhost")
    words = [] if host in ("localhost", "127.0.0.1") else ["-h", shlex.quote(host)]
    return [*words, "-p", str(where.get("port", 6379))]


def _of_master(address: RedisAddress) -> list[str]:
    """Let the shell look the master up at a Sentinel, which prints host and port."""
    host, port = address.nodes[0]
    looked_up = (
        f"redis-cli -h {shlex.quote(host)} -p {port} SENTINEL GET-MASTER-ADDR-BY-NAME {address.service}"
    )
    return ["$(" + looked_up + " | xargs printf -- '-h %s -p %s')"]


def _of_cluster(address: RedisAddress) -> list[str]:
    host, port = address.nodes[0]
    return ["-c", "-h", shlex.quote(host), "-p", str(port)]
