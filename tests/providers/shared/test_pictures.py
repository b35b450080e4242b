"""Pictures in answers: base64 in every spelling, and addresses that cannot be fetched although they are paid for."""

from __future__ import annotations

import base64
import binascii
import string
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.base import Picture
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.shared.answers import emptied, fetch_picture, json_object, picture_of

HEAD = b"\x89PNG\r\n\x1a\n"
SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda data: base64.b64encode(data).decode(),
    "lines": lambda data: base64.encodebytes(data).decode(),
    "windows_lines": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "url_alphabet": lambda data: base64.urlsafe_b64encode(data).decode(),
    "without_padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "data_url": lambda data: f"data:image/png;base64,{quote(base64.b64encode(data).decode(), safe='')}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(rest=st.binary(max_size=300))
def test_a_picture_is_read_in_every_spelling_of_base64(spelling: str, rest: bytes) -> None:
    picture = picture_of({"b64_json": SPELLINGS[spelling](HEAD + rest)}, "api.example.com", None)
    assert picture is not None
    assert picture.data == HEAD + rest


def by_python(text: str) -> bytes | None:
    """The bytes of base64 in any spelling, by Python's own decoder; None if it is broken."""
    standard = text.translate(str.maketrans("-_", "+/", string.whitespace)).rstrip("=")
    for spelling in (text, standard + "=" * (-len(standard) % 4)):
        with suppress(ValueError):
            return binascii.a2b_base64(spelling, strict_mode=True)
    return None


@given(text=st.text("AQz9+/-_= \n\r\tà%,", max_size=12), at=st.sampled_from((0, 5, 12)))
def test_no_spelling_is_read_otherwise_than_by_pythons_decoder(text: str, at: int) -> None:
    plain = base64.b64encode(HEAD + b"x").decode()
    encoded = plain[:at] + text + plain[at:]
    data = by_python(encoded)
    if data is not None and data.startswith(HEAD):
        picture = picture_of({"b64_json": encoded}, "api.example.com", None)
        assert picture is not None
        assert picture.data == data
    else:
        with pytest.raises(ProviderError):
            picture_of({"b64_json": encoded}, "api.example.com", None)


@pytest.mark.parametrize("size", [100, 9 * 1024 * 1024])
@pytest.mark.parametrize("text", ["A", "é"])
def test_a_document_is_read_at_any_size_and_its_body_is_gone(size: int, text: str) -> None:
    document = {"data": [{"b64_json": text * size}]}
    body = bytearray(orjson.dumps(document))
    assert emptied(body) == document
    assert not body
    assert emptied(bytearray(b"[" * size)) is None
    assert emptied(bytearray(b"[" + b" " * size + b"]")) is None


@pytest.mark.parametrize("size", [100, 9 * 1024 * 1024])
def test_a_lone_surrogate_neither_loses_a_document_nor_reaches_a_record(size: int) -> None:
    body = b'{"data": [{"b64_json": "%b"}], "usage": {"\\ud83d": "\\ud83d"}, "id": "\\ud83d\\ude00"}' % (
        b"A" * size
    )
    document = emptied(bytearray(body))
    assert document is not None
    assert (document["usage"], document["id"]) == ({"\\ud83d": "\\ud83d"}, "😀")
    assert orjson.loads(orjson.dumps(document)) == document


@pytest.mark.parametrize("broken", ["iVBORw0KGgoAA", "iVBORw0K=Ggo=AAA", "iVBORw0KGgo!", "iVBORw0KGgoé"])
def test_broken_base64_is_no_picture(broken: str) -> None:
    with pytest.raises(ProviderError, match="broken or cut off"):
        picture_of({"b64_json": broken}, "api.example.com", None)


def test_a_document_behind_a_byte_order_mark_is_read() -> None:
    assert json_object(b"\xef\xbb\xbf" + orjson.dumps({"created": 1})) == {"created": 1}


async def failure(url: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await fetch_picture(Picture(url=url), host="api.example.com", allow_hosts=())
    return caught.value


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://10.0.0.7/x.png", "10.0.0.7"),
        ("http://cdn.example.com/x.png", "cdn.example.com"),
        ("https://cdn.example.com:8443/x.png", "cdn.example.com:8443"),
    ],
)
async def test_a_refused_address_is_not_bought_again_and_names_its_setting(url: str, entry: str) -> None:
    error = await failure(url)
    assert (error.kind, error.retry, error.charged) == (
        ErrorKind.RESULT_DOWNLOAD,
        Retry.NEVER,
        Charged.YES,
    )
    assert f"add {entry} to `allow_hosts` of the credential" in error.message


async def test_an_address_that_nothing_can_allow_names_no_setting() -> None:
    error = await failure("https://169.254.169.254/latest/meta-data")
    assert (error.kind, error.retry) == (ErrorKind.RESULT_DOWNLOAD, Retry.NEVER)
    assert "allow_hosts" not in error.message
