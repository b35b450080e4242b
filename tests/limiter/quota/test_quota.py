"""Quotas are parsed, checked and computed as their configuration says."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter import Bucket, CalendarDay, InFlight, Quota, QuotaError, Window, parse_quota
from limiter.quota.limits import guard_us
from limiter.quota.quota import PRESETS, Limit

_MIN = 60_000_000


@pytest.mark.parametrize(
    ("spec", "limits"),
    [
        ({"images": "20/min"}, (Window(20, _MIN, "images"),)),
        ({"requests": "60/10s"}, (Window(60, 10_000_000),)),
        ({"requests": "1/2s"}, (Window(1, 2_000_000),)),
        ({"polls": "1000/10s"}, (Window(1000, 10_000_000, "polls"),)),
        (
            {"requests": "2000/d", "images": "5/h"},
            (Window(2000, 1440 * _MIN), Window(5, 60 * _MIN, "images")),
        ),
        ({"requests": {"rate": "50/min", "burst": 5}}, (Bucket(50, _MIN, 5),)),
        ({"in_flight": 8}, (InFlight(8),)),
        ({"in_flight": {"images": 16}}, (InFlight(16, "images"),)),
        ({"requests": {"every": "2s"}}, (Window(1, 2_000_000),)),
        ({"requests": {"every": "0.25s"}}, (Window(1, 250_000),)),
        ({"requests": {"every": "500ms"}}, (Window(1, 500_000),)),
        (
            {"requests": {"rate": "2000/day", "reset": "Asia/Shanghai"}},
            (CalendarDay(2000, "Asia/Shanghai"),),
        ),
        (
            {"requests": ["10/s", "120/min"], "images": "200/min", "in_flight": 16},
            (Window(10, 1_000_000), Window(120, _MIN), Window(200, _MIN, "images"), InFlight(16)),
        ),
        ({"preset": "tencent-hunyuan"}, (InFlight(1), Window(20, 1_000_000))),
        ({"preset": "tencent-hunyuan", "in_flight": 5}, (InFlight(5), Window(20, 1_000_000))),
        ({"preset": "modelscope-zimage"}, (Window(500, 86_400_000_000),)),
        ({"preset": "modelscope-zimage", "requests": "100/d"}, (Window(100, 86_400_000_000),)),
        ({"preset": "openrouter-free"}, (Window(20, _MIN), Window(50, 86_400_000_000))),
        ({"preset": "openrouter-free-with-credits"}, (Window(20, _MIN), Window(1000, 86_400_000_000))),
    ],
)
def test_every_form_of_the_configuration_is_read(spec: dict[str, object], limits: tuple[Limit, ...]) -> None:
    assert parse_quota("main", spec) == Quota("main", limits)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_quota_and_says_where_it_comes_from(preset: str) -> None:
    assert parse_quota("main", {"preset": preset}).limits
    assert "." in PRESETS[preset].source
    assert re.fullmatch(r"20\d\d-[01]\d", PRESETS[preset].as_of)


@pytest.mark.parametrize(
    ("spec", "field", "example"),
    [
        ({"images": "20/fortnight"}, "images", 'images = "20/min"'),
        ({"requests": "-1/s"}, "requests", 'requests = "20/min"'),
        ({"requests": "0/s"}, "requests", 'requests = "20/min"'),
        ({"requests": "20/0s"}, "requests", 'requests = "20/min"'),
        ({"requests": "1/400d"}, "requests", 'requests = "20/min"'),
        ({"requests": "20 per minute"}, "requests", 'requests = "20/min"'),
        ({"requests": "0.5/s"}, "requests", 'requests = "20/min"'),
        ({"requests": "2e1/s"}, "requests", 'requests = "20/min"'),
        ({"requests": "٢/s"}, "requests", 'requests = "20/min"'),
        ({"requests": 20}, "requests", 'requests = { rate = "50/min", burst = 5 }'),
        ({"requests": {"rate": "50/min", "burst": 0}}, "burst", "burst = 5"),
        ({"requests": {"rate": "50/min", "burst": 1.5}}, "burst", "burst = 5"),
        ({"requests": {"rate": "50/min", "burst": 10**12}}, "requests", "burst = 5"),
        ({"requests": {"rate": "fast", "burst": 5}}, "rate", 'rate = "50/min"'),
        ({"requests": {"rate": "50/min"}}, "requests", "burst = 5"),
        ({"requests": {"rate": "50/min", "burst": 5, "size": 1}}, "requests", "burst = 5"),
        ({"in_flight": 0}, "in_flight", "in_flight = 8"),
        ({"in_flight": "8"}, "in_flight", "in_flight = 8"),
        ({"in_flight": True}, "in_flight", "in_flight = 8"),
        ({"image": "20/min"}, "image", "did you mean 'images'"),
        ({"x": 1}, "x", 'images = "20/min"'),
        ({"preset": "tencent"}, "preset", "tencent-hunyuan"),
        ({"adaptive": "yes", "images": "20/min"}, "adaptive", "adaptive = true"),
        ({"adaptive": True, "in_flight": 8}, "adaptive", 'images = "20/min"'),
        (
            {"images": {"rate": "20/min", "burst": 5, "adaptive": True}},
            "images",
            "adaptive = true beside images",
        ),
        ({"requests": {"rate": "2000/d", "reset": "Asia/Peking"}}, "time zone", "'Asia/Shanghai'"),
        ({"requests": {"rate": "2000/h", "reset": "UTC"}}, "requests", 'rate = "2000/day"'),
        ({"requests": {"rate": "2000/d", "reset": "UTC", "burst": 5}}, "requests", 'reset = "Asia/Shanghai"'),
        ({"requests": {"rate": "20/s", "window": "sliding"}}, "requests", 'window = "fixed"'),
        ({"requests": {"rate": "20/s", "window": "fixed", "burst": 2}}, "requests", 'window = "fixed"'),
        ({"requests": {"every": "often"}}, "requests", 'every = "2s"'),
        ({"requests": {"every": "0.0s"}}, "requests", 'every = "2s"'),
        ({"requests": {"every": "2s", "burst": 5}}, "requests", 'every = "2s"'),
        ({"requests": []}, "requests", '["10/s", "120/min"]'),
        ({"requests": ["10/s", 5]}, "requests", 'requests = "20/min"'),
        ({"in_flight": {"images": 0}}, "in_flight", "in_flight = { images = 16 }"),
        ({"in_flight": {"pictures": 16}}, "in_flight", "in_flight = { images = 16 }"),
        ({}, "no limit", 'images = "20/min"'),
    ],
)
def test_the_error_of_a_wrong_quota_names_the_place_and_a_right_example(
    spec: dict[str, object], field: str, example: str
) -> None:
    with pytest.raises(QuotaError) as caught:
        parse_quota("openai-main", spec)
    sentence = str(caught.value)
    assert "openai-main" in sentence
    assert field in sentence
    assert example in sentence


@pytest.mark.parametrize("name", ["", "a:b", "a b", "-a", "x" * 65, "名"])
def test_a_quota_name_that_would_not_fit_a_key_is_refused(name: str) -> None:
    with pytest.raises(QuotaError, match="openai-main"):
        Quota(name, (InFlight(1),))


def test_two_buckets_on_one_unit_are_two_quotas() -> None:
    with pytest.raises(QuotaError, match="two limits on requests"):
        Quota("main", (Bucket(2, 1_000_000, 2), Bucket(1, 1_000_000, 1)))


@given(st.integers(1, 366 * 86_400_000_000))
def test_the_guard_stays_between_its_bounds_and_never_shrinks_with_the_period(period_us: int) -> None:
    assert 5_000 <= guard_us(period_us) <= 100_000
    assert guard_us(period_us) <= guard_us(period_us + 1)


@given(n=st.integers(1, 60), count=st.integers(1, 12), period_us=st.integers(1, 10**9))
def test_the_optimum_of_a_window_is_what_a_greedy_sender_reaches(n: int, count: int, period_us: int) -> None:
    starts: list[int] = []
    for number in range(n):
        starts.append(starts[number - count] + period_us if number >= count else 0)
    assert Quota("q", (Window(count, period_us),)).optimum_s(n) == pytest.approx(starts[-1] / 1e6)


@given(
    n=st.integers(1, 60), count=st.integers(1, 12), burst=st.integers(1, 12), period_us=st.integers(1, 10**9)
)
def test_the_optimum_of_a_bucket_is_what_a_greedy_sender_reaches(
    n: int, count: int, burst: int, period_us: int
) -> None:
    now, tokens, rate = Fraction(0), Fraction(burst), Fraction(count, period_us)
    for _ in range(n):
        wait = max(Fraction(0), (1 - tokens) / rate)
        now, tokens = now + wait, min(Fraction(burst), tokens + wait * rate) - 1
    assert Quota("q", (Bucket(count, period_us, burst),)).optimum_s(n) == pytest.approx(float(now) / 1e6)


@given(n=st.integers(1, 60), count=st.integers(1, 12), service_s=st.floats(0.001, 100))
def test_the_optimum_of_calls_in_flight_is_full_rounds(n: int, count: int, service_s: float) -> None:
    places = [0.0] * count
    for number in range(n):
        places[number % count] += service_s
    assert Quota("q", (InFlight(count),)).optimum_s(n, service_s) == pytest.approx(max(places))


def test_the_slowest_limit_decides_the_optimum() -> None:
    quota = parse_quota(
        "main", {"images": "20/min", "requests": {"rate": "50/min", "burst": 5}, "in_flight": 8}
    )
    assert quota.optimum_s(41, 3.0) == 120 + 3
    assert quota.optimum_s(0, 3.0) == 0
    assert Quota("free").optimum_s(10, 3.0) == 3.0
