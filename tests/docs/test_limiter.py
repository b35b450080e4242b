"""The limiter's page is true: its example runs, and the names in it exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

import limiter

TEXT = (Path(__file__).parents[2] / "docs" / "limiter.md").read_text()
[EXAMPLE] = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.timed
async def test_the_example_sends_its_calls_under_the_quota(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, object] = {"redis": redis}
    exec(compile(EXAMPLE, "limiter.md", "exec"), names)
    call = names["call_provider"]
    for number in range(3):
        await call(f"job-{number}")  # type: ignore[operator] # the example's coroutine function
    assert re.fullmatch(r"(job-\d is sent after 0\.\d s\n){3}", capsys.readouterr().out)
    [state] = await limiter.Limiter(redis, "myservice").snapshot([names["QUOTA"]])  # type: ignore[list-item] # a Quota
    assert (state.in_flight, state.units[0].available) == (0, 17)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w+)`", TEXT))))
def test_every_method_that_is_named_exists(name: str) -> None:
    known = {
        *limiter.__all__,
        *dir(limiter.Limiter),
        *dir(limiter.Later),
        "request_id",
        "adaptive",
        "limiter",
        "RateLimit",
        "pixmill_quota_rate_scale",
    }
    assert name in known
