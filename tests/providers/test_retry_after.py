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
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "30s"}, 30.0),
        ({"retry-after-ms": "350"}, 0.35),
        ({"Retry-After": "2", "retry-after-ms": "1200"}, 1.2),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:20 GMT", "Date": DATE}, 20.0),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:20 GMT"}, 20.0),
        ({"Retry-After": "Fri, 15 Jan 2027 07:00:00 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
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
def test_garbage_never_raises_and_never_gives_a_negative_wait(header: str, text: str) -> None:
    wait_s = parse_retry_after({"retry-after": header, "date": header, "retry-after-ms": text}, text)
    assert wait_s is None or wait_s >= 0
