"""Durations, sizes, addresses and URLs as operators write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from daemon.settings import Listen, SecretUrl, masked_url, parse_duration
from daemon.settings.values import duration_text, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("15s", 15),
        ("2min", 120),
        ("24h", 86400),
        ("7d", 604800),
        ("1.5h", 5400),
        (90, 90),
        ("90", 90),
    ],
)
def test_durations_are_seconds(text: Any, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "15 m", "1h30min", "-1s", "1e3s", "inf", True, None, [], -1, float("nan")]
)
def test_a_text_that_is_no_duration_is_refused(text: Any) -> None:
    with pytest.raises(PydanticCustomError, match="must be a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("25MiB", 26214400), ("1kB", 1000), ("7B", 7), (1024, 1024), ("1.5KiB", 1536)]
)
def test_sizes_are_bytes(text: Any, size: int) -> None:
    assert parse_size(text) == size


@given(st.integers(0, 10**9))
def test_a_printed_duration_can_be_parsed(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(duration_text(seconds)) == pytest.approx(seconds, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8080", "127.0.0.1", 8080), ("localhost:0", "localhost", 0), ("[::1]:80", "::1", 80)],
)
def test_an_address_has_a_host_and_a_port(text: str, host: str, port: int) -> None:
    address = Listen.parse(text)
    assert (address.host, address.port) == (host, port)


USERS = st.text("uvw._-", max_size=8)


@given(USERS, st.text("abcdefXYZ0123456789!$&*+,;=/#?@:%", min_size=8, max_size=20))
def test_no_password_is_readable_in_a_masked_url(user: str, password: str) -> None:
    url = SecretUrl(f"redis://{user}:{password}@host.example:6379/0")
    assert str(url) == f"{url}" == masked_url(url.reveal())
    assert password not in f"{url} {url!r}"
    assert str(url).endswith("@host.example:6379/0")


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    for url in ("redis://localhost:6379/0", "file:///srv/a@b/images", "s3://bucket/prefix"):
        assert str(SecretUrl(url)) == url
