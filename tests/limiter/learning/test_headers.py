"""Rate headers of every dialect read the same, rubbish reads as nothing, and no hint ever loosens our books."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.headers import (
    DAY_S,
    HeaderReading,
    read_headers,
    tightest,
)

DATE = "Sun, 22 Nov 2026 05:00:00 GMT"
DATE_S = 1_795_323_600


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param(
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-limit-images": "5",
                "x-ratelimit-remaining-images": "0",
                "x-ratelimit-reset-images": "6m0s",
            },
            [HeaderReading(60, 59, 1.0), HeaderReading(5, 0, 360.0, "images")],
            id="openai",
        ),
        pytest.param(
            {"X-RateLimit-Limit-Requests-Day": "14400", "X-RateLimit-Remaining-Requests-Day": "7"},
            [HeaderReading(14_400, 7, window_s=DAY_S)],
            id="a unit and its window",
        ),
        pytest.param(
            {
                "Date": DATE,
                "X-RateLimit-Limit": "20",
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": f"{DATE_S + 30}",
            },
            [HeaderReading(20, 0, 30.0)],
            id="an instant in seconds, by the provider's own clock",
        ),
        pytest.param(
            {"date": DATE, "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{DATE_S + 30}250"},
            [HeaderReading(None, 0, 30.25)],
            id="an instant in milliseconds",
        ),
        pytest.param(
            {"date": DATE, "x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{DATE_S - 30}"},
            [HeaderReading(None, 0, 0.0)],
            id="an instant that is over",
        ),
        pytest.param(
            {"x-ratelimit-limit": "20", "x-ratelimit-remaining": "3", "x-ratelimit-reset": "17"},
            [HeaderReading(20, 3, 17.0)],
            id="seconds to go",
        ),
        pytest.param(
            {
                "RateLimit-Policy": '"burst";q=100;w=60, "daily";q=1000;w=86400;qu="images";pk=:dXNlcg==:',
                "RateLimit": '"burst";r=50;t=30, "daily";r=3',
            },
            [
                HeaderReading(100, 50, 30.0, window_s=60.0, policy="burst"),
                HeaderReading(1000, 3, None, "images", DAY_S, "daily"),
            ],
            id="the draft, two policies",
        ),
        pytest.param(
            {"ratelimit-policy": '"a,b;c=\\"d";q=10;w=1', "ratelimit": '"a,b;c=\\"d";r=4'},
            [HeaderReading(10, 4, None, window_s=1.0, policy='a,b;c="d')],
            id="the draft, a name full of separators",
        ),
        pytest.param(
            {"ratelimit": '"unknown";r=4;t=2', "ratelimit-policy": '"known";q=9;w=60'},
            [HeaderReading(None, 4, 2.0, policy="unknown"), HeaderReading(9, window_s=60.0, policy="known")],
            id="the draft, an item without its policy",
        ),
        pytest.param(
            {"RateLimit": "limit=100, remaining=50, reset=5", "RateLimit-Policy": "100;w=10, 1000;w=3600"},
            [HeaderReading(100, 50, 5.0, window_s=10.0)],
            id="draft 07",
        ),
        pytest.param(
            {
                "RateLimit-Limit": "100, 100;w=10, 1000;w=3600",
                "RateLimit-Remaining": "7",
                "RateLimit-Reset": "50",
            },
            [HeaderReading(100, 7, 50.0, window_s=10.0)],
            id="drafts before 07",
        ),
        pytest.param(
            {
                "modelscope-ratelimit-requests-limit": "2000",
                "modelscope-ratelimit-requests-remaining": "1999",
                "modelscope-ratelimit-model-requests-limit": "50",
                "modelscope-ratelimit-model-requests-remaining": "1",
            },
            [
                HeaderReading(2000, 1999, window_s=DAY_S),
                HeaderReading(50, 1, window_s=DAY_S, policy="model"),
            ],
            id="modelscope",
        ),
    ],
)
def test_each_dialect_is_read(headers: dict[str, str], expected: list[HeaderReading]) -> None:
    assert list(read_headers(headers)) == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("1h2m3.5s", 3723.5),
        ("2m59.56s", 179.56),
        ("1d", DAY_S),
        ("250µs", 0.000_25),
        ("0", 0.0),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("1 s", None),
        ("1e3", None),
        ("nan", None),
        ("inf", None),
        ("١s", None),
        ("9" * 400, None),
    ],
)
def test_resets_are_durations_of_any_spelling_or_nothing(text: str, seconds: float | None) -> None:
    [reading] = read_headers({"x-ratelimit-remaining-images": "1", "x-ratelimit-reset-images": text})
    assert reading.reset_s == (None if seconds is None else pytest.approx(seconds))


def test_an_instant_needs_the_providers_clock_or_a_given_one() -> None:
    headers = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": f"{DATE_S + 9}"}
    assert read_headers(headers)[0].reset_s is None
    assert read_headers(headers, now_s=DATE_S)[0].reset_s == 9.0
    assert read_headers({**headers, "date": DATE}, now_s=0.0)[0].reset_s == 9.0
    assert read_headers({**headers, "date": "soon"}, now_s=DATE_S)[0].reset_s == 9.0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retry-after": "5", "content-type": "application/json"},
        {"x-ratelimit-remaining": "-1", "x-ratelimit-limit": "0"},
        {"x-ratelimit-remaining": "unlimited"},
        {"x-ratelimit-reset": "5s"},
        {"ratelimit": ";;;=,,,", "ratelimit-policy": '"'},
        {"ratelimit": "a" * 100_000},
        {"ratelimit-limit": "many;w=few"},
    ],
)
def test_headers_without_a_limit_give_no_reading(headers: dict[str, str]) -> None:
    assert read_headers(headers) == ()


_NAMES = st.sampled_from(
    [
        "x-ratelimit-limit",
        "X-RateLimit-Remaining",
        "x-ratelimit-reset",
        "x-ratelimit-remaining-images",
        "x-ratelimit-reset-images-day",
        "ratelimit",
        "RateLimit-Policy",
        "ratelimit-limit",
        "ratelimit-remaining",
        "ratelimit-reset",
        "modelscope-ratelimit-requests-remaining",
        "date",
    ]
)
_RUBBISH = st.one_of(
    st.text(max_size=60),
    st.text(alphabet='0123456789.;,="\\smhrqwtu- ', max_size=60),
    st.integers(-(10**30), 10**30).map(str),
    st.floats().map(str),
)


@given(st.dictionaries(_NAMES, _RUBBISH, max_size=8), st.none() | st.floats())
def test_no_header_raises_and_every_reading_is_in_range(headers: dict[str, str], now_s: float | None) -> None:
    for reading in read_headers(headers, now_s=now_s):
        assert reading.limit is None or reading.limit > 0
        assert reading.remaining is None or reading.remaining >= 0
        assert reading.reset_s is None or reading.reset_s >= 0
        assert reading.limit is not None or reading.remaining is not None


@pytest.mark.parametrize("part", ['"', '"\\', '",', "a;", ";;", "=", '"a"', "1,", "1;w=", ' "'])
def test_the_longest_rubbish_is_read_in_no_time(part: str) -> None:
    """A pattern that backtracks over thousands of characters takes minutes; a busy machine is given seconds."""
    text = (part * 4096)[:4096]
    started = time.process_time()
    assert len(read_headers({"ratelimit": text, "ratelimit-policy": text, "ratelimit-limit": text})) <= 16
    assert time.process_time() - started < 5


def test_the_tightest_reading_is_of_the_unit_and_the_window() -> None:
    day = HeaderReading(2000, 1, window_s=DAY_S)
    minute = HeaderReading(60, 20, window_s=60.0)
    some = HeaderReading(90, 30)
    images = HeaderReading(9, 0, unit="images")
    readings = [day, minute, some, images, HeaderReading(5)]
    assert tightest(readings, "requests") is day
    assert tightest(readings, "requests", 60.0) is minute
    assert tightest(readings, "requests", 1.0) is some
    assert tightest(readings, "polls") is None
