"""A text that is made to keep a pattern busy is read once: without that, each of these would take an hour."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from pixmill.contract import Rejection, contains_secret, parse_payload
from providers import retry_after
from providers.hunyuan import errors as hunyuan

LONG = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        lambda: b"://" + b":" * LONG,
        lambda: b"://a" * (LONG // 4),
        lambda: b"://" + b"a" * LONG + b":" * LONG,
        lambda: b"'token" + b" " * LONG + b"'token" + b"\\" * LONG,
        lambda: b"Bearer! " + b"sk-" * LONG,
    ],
    ids=["colons", "beginnings", "name", "blanks", "keys"],
)
def test_a_text_without_a_secret_is_searched_once(text: Callable[[], bytes]) -> None:
    assert not contains_secret(text())


@pytest.mark.parametrize(
    "text",
    [b"redis://u:p@host", b"redis://:p@host", b"http://a:b:c@host", b"x://u::@h", b"://" * 9 + b"u:p@"],
)
def test_a_password_in_an_address_is_found_wherever_its_colon_stands(text: bytes) -> None:
    assert contains_secret(text)


@pytest.mark.parametrize("text", [b"redis://u:@host", b"redis://u@host", b"http://h/a:b@c", b"a:b@c"])
def test_an_address_without_a_password_is_no_secret(text: bytes) -> None:
    assert not contains_secret(text)


def test_a_long_address_of_an_input_is_refused_by_its_length() -> None:
    url = "https://" + "a" * LONG + "\\ x"
    data = orjson.dumps({"id": "a", "prompt": "x", "inputs": [{"url": url}]})
    with pytest.raises(Rejection) as caught:
        parse_payload(data, most_bytes=2 * LONG)
    assert caught.value.field == "inputs.0.url"


@pytest.mark.parametrize(
    ("search", "text"),
    [
        (retry_after._TEXT.search, lambda: "wait for" + " " * LONG),
        (retry_after._TEXT.search, lambda: "retry after ~" + "1." * LONG),
        (hunyuan._IN_FLIGHT.search, lambda: "limit exceeded on dimension: " + "concurren" * 100_000 + ". x"),
    ],
    ids=["blanks", "digits", "dimension"],
)
def test_the_words_of_a_provider_are_searched_once(
    search: Callable[[str], object], text: Callable[[], str]
) -> None:
    assert search(text()) is None
