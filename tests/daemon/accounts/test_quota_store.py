"""Limits that operators set: how they merge with the configuration, and the report of an unreadable one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from daemon.accounts.quota_store import in_force, quotas_in_force, reset, set_limits
from limiter.explain import spelled
from limiter.quota.quota import QuotaError, parse_quota
from pixmill.records.keys import Keys

KEYS = Keys("pixmill")
CONFIGURED: Mapping[str, object] = {"images": ["10/s", "120/min"], "in_flight": 8}


def limits(configured: Mapping[str, object], stored: object) -> list[str]:
    now = in_force("main", configured, orjson.dumps(stored))
    assert now.problem is None
    return [spelled(limit) for limit in now.quota.limits]


# Merging


def test_a_field_that_was_set_replaces_the_configured_one_alone() -> None:
    assert limits(CONFIGURED, {"images": "20/min"}) == ["images 20/min", "in_flight 8"]
    assert limits(CONFIGURED, {"in_flight": 2}) == ["images 10/s", "images 120/min", "in_flight 2"]
    assert limits(CONFIGURED, {"requests": "5/s"})[-1] == "requests 5/s"
    assert limits({"preset": "tencent-hunyuan"}, {"in_flight": 3}) == ["in_flight 3", "requests 20/s"]


async def test_a_later_setting_replaces_its_own_fields_alone(redis: Redis) -> None:
    await set_limits(redis, KEYS, "main", CONFIGURED, {"images": "20/min", "in_flight": 4})
    now = await set_limits(redis, KEYS, "main", CONFIGURED, {"in_flight": 2})
    assert [spelled(limit) for limit in now.quota.limits] == ["images 20/min", "in_flight 2"]
    assert await quotas_in_force(redis, KEYS, {"main": CONFIGURED}) == {"main": now}
    assert now.configured == parse_quota("main", CONFIGURED)


async def test_the_settings_of_two_operators_at_once_both_count(redis: Redis) -> None:
    fields: list[dict[str, object]] = [{"images": "20/min"}, {"in_flight": 2}, {"requests": "5/s"}]
    await asyncio.gather(*(set_limits(redis, KEYS, "main", CONFIGURED, each) for each in fields))
    now = (await quotas_in_force(redis, KEYS, {"main": CONFIGURED}))["main"]
    assert {spelled(limit) for limit in now.quota.limits} == {"images 20/min", "in_flight 2", "requests 5/s"}


async def test_a_reset_takes_away_every_setting_and_returns_whether_any_was(redis: Redis) -> None:
    await set_limits(redis, KEYS, "main", CONFIGURED, {"in_flight": 2})
    assert await reset(redis, KEYS, "main")
    assert not await reset(redis, KEYS, "main")
    now = (await quotas_in_force(redis, KEYS, {"main": CONFIGURED}))["main"]
    assert (now.quota, now.set_at) == (parse_quota("main", CONFIGURED), None)


# Refusals and unreadable tables


@pytest.mark.parametrize("field", [{"images": "fast"}, {"imges": "2/s"}, {"in_flight": 10**30}])
async def test_limits_that_make_no_quota_are_refused_and_change_nothing(
    redis: Redis, field: dict[str, object]
) -> None:
    await set_limits(redis, KEYS, "main", CONFIGURED, {"in_flight": 2})
    before = await redis.hgetall(KEYS.quotas)
    with pytest.raises(QuotaError, match="main"):
        await set_limits(redis, KEYS, "main", CONFIGURED, field)
    assert await redis.hgetall(KEYS.quotas) == before


async def test_an_unreadable_setting_is_replaced(redis: Redis) -> None:
    await redis.hset(KEYS.quotas, "main", '{"images": "20 a fortnight", "in_flight": 1}')
    assert (await quotas_in_force(redis, KEYS, {"main": CONFIGURED}))["main"].problem
    now = await set_limits(redis, KEYS, "main", CONFIGURED, {"images": "20/min"})
    assert [spelled(limit) for limit in now.quota.limits] == ["images 20/min", "in_flight 8"]


async def test_a_table_written_by_hand_counts_with_or_without_a_time(redis: Redis) -> None:
    assert in_force("main", CONFIGURED, b'{"in_flight": 2}').set_at == ""
    assert in_force("main", CONFIGURED, b'{"in_flight": 2, "set_at": "yesterday"}').set_at == ""
    reported = in_force("main", CONFIGURED, b'{"in_flight": 2, "set_at": "2026-11-24T12:00:00+08:00"}')
    assert reported.set_at == "2026-11-24T04:00:00.000Z"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
NAMES = st.sampled_from(["images", "requests", "polls", "in_flight", "preset", "adaptive", "set_at"])
RATES = st.sampled_from(["10/min", "0/s", "9/999999999d"]) | VALUES
LIMITS = st.dictionaries(st.sampled_from(["rate", "burst", "reset", "every", "images"]), RATES, max_size=3)


@given(st.dictionaries(NAMES | st.text(), RATES | LIMITS | st.lists(RATES), max_size=4) | VALUES)
def test_any_stored_value_gives_the_merged_or_the_configured_quota(stored: Any) -> None:
    now = in_force("main", CONFIGURED, orjson.dumps(stored))
    if now.problem is not None:
        assert now.quota == parse_quota("main", CONFIGURED)
    else:
        stored.pop("set_at", None)
        assert now.quota == parse_quota("main", {**CONFIGURED, **stored})


@pytest.mark.parametrize("stored", [b"", b"{", b"\xff", b"[]", b"3"])
def test_an_entry_that_is_no_table_is_reported_and_the_configuration_counts(stored: bytes) -> None:
    now = in_force("main", CONFIGURED, stored)
    assert now.problem
    assert now.quota == now.configured
