"""Redis clients as this project needs them: a command is sent once; blocking reads have their own connection."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

COMMAND_TIMEOUT_S = 10.0
# Longer than any blocking read here, so a quiet stream is not taken for a dead server, yet a dead one is noticed.
BLOCKING_TIMEOUT_S = 20.0


def command_client(url: str) -> Redis:
    """For commands and scripts.

    redis-py retries a command up to ten times by default, also one whose reply was lost: one XADD then becomes
    several. Our steps are repeated by us, where repeating is known to be safe.
    """
    return _client(url, COMMAND_TIMEOUT_S)


def blocking_client(url: str) -> Redis:
    """For blocking reads and subscriptions; never shared with commands, which would wait behind them."""
    return _client(url, BLOCKING_TIMEOUT_S)


def _client(url: str, timeout_s: float) -> Redis:
    return Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=5.0,
        socket_keepalive=True,
        health_check_interval=15,
        max_connections=256,
    )
