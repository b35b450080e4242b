"""Every spelling in which providers ask to wait."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.retry_after import parse_retry_after

NOW_S = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({"Retry-After": "12"}, 12.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "30s"}, 30.0),
        ({"retry-after-ms": "350"}, 0.35),
        ({"Retry-After": "2", "retry-after-ms": "1200"}, 1.2),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:20 GMT", "Date": DATE}, 20.0),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:20 GMT"}, 20.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "1e9"}, 1e9),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT", "Date": DATE}, 251_602_300_799.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1800000007"}, 7.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1800000007000"}, 7.0),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "7"}, 7.0),
        ({"X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "1800000007"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({}, None),
    ],
)
def test_each_spelling_of_a_header_names_its_wait(headers: dict[str, str], expected_s: float | None) -> None:
    wait_s = parse_retry_after(httpx2.Headers(headers), now_s=NOW_S)
    assert wait_s == (None if expected_s is None else pytest.approx(expected_s))


def test_a_date_is_measured_against_the_servers_clock() -> None:
    headers = httpx2.Headers({"Retry-After": "Fri, 15 Jan 2027 08:00:20 GMT", "Date": DATE})
    assert parse_retry_after(headers, now_s=NOW_S + 3600) == 20.0


# Each names no wait: the caller's own growing pause counts.
NO_WAITS = [
    *(
        {"Retry-After": text}
        for text in ("0", "0.0", "-3", "-0", "0s", "nan", "inf", "1e400", "9" * 400 + "h")
    ),
    {"Retry-After": "Fri, 15 Jan 2027 08:00:00 GMT", "Date": DATE},
    {"Retry-After": "Fri, 15 Jan 2027 07:00:00 GMT", "Date": DATE},
    {"retry-after-ms": "0"},
    {"retry-after-ms": "-250"},
    {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1799999993"},
    {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "0"},
    {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "0s"},
]


@pytest.mark.parametrize("headers", NO_WAITS)
def test_a_wait_that_is_over_or_endless_is_none(headers: dict[str, str]) -> None:
    assert parse_retry_after(httpx2.Headers(headers), now_s=NOW_S) is None


@pytest.mark.parametrize("headers", NO_WAITS)
def test_words_name_the_wait_where_a_header_names_none(headers: dict[str, str]) -> None:
    assert parse_retry_after(httpx2.Headers(headers), "try again in 12s", now_s=NOW_S) == 12.0


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("Rate limit reached for gpt-image-1.5 ... Please try again in 12s.", 12.0),
        ("Please try again in 350ms.", 0.35),
        ("Please try again in 1m2.5s.", 62.5),
        ("try again in 2 minutes", 120.0),
        ("Request was throttled. Your rate limit resets in ~30s.", 30.0),
        ("Retry after 5 seconds", 5.0),
        ('{"@type":"RetryInfo","retryDelay": "21s"}', 21.0),
        ("Please try again later.", None),
        ("Please try again in 0s.", None),
        ("Please try again in 0 seconds.", None),
        ('{"@type":"RetryInfo","retryDelay": "0s"}', None),
        ("Please try again in " + "9" * 400 + " hours.", None),
        ("Please try again in " + "9" * 400 + "h1s.", None),
        ("", None),
    ],
)
def test_words_are_the_last_resort(text: str, expected_s: float | None) -> None:
    assert parse_retry_after(httpx2.Headers(), text) == (
        None if expected_s is None else pytest.approx(expected_s)
    )


def test_a_header_counts_more_than_words() -> None:
    assert parse_retry_after(httpx2.Headers({"Retry-After": "3"}), "try again in 12s") == 3.0


@given(st.text(max_size=60), st.text(max_size=60))
def test_garbage_never_raises_and_a_wait_is_above_zero_and_finite(header: str, text: str) -> None:
    wait_s = parse_retry_after({"retry-after": header, "date": header, "retry-after-ms": text}, text)
    assert wait_s is None or 0 < wait_s < float("inf")
