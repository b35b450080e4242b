"""A secret is hidden in every spelling in which a provider may quote it."""

from __future__ import annotations

import base64
import html
import json
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import ErrorKind, ProviderError
from providers.secrets import without_secret

KEY = "sk-planted/secret+0123456789=~key"
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)
AROUND = st.binary(max_size=7)


@given(secret=SECRETS, before=AROUND, behind=AROUND, url=st.booleans(), padded=st.booleans())
def test_base64_of_a_secret_is_hidden_whatever_stands_beside_it(
    secret: str, before: bytes, behind: bytes, url: bool, padded: bool
) -> None:
    encode = base64.urlsafe_b64encode if url else base64.b64encode
    encoded = encode(before + secret.encode() + behind).decode()
    shown = without_secret(f"The key {encoded if padded else encoded.rstrip('=')} is wrong.", secret)
    left = "".join(re.findall(r"[A-Za-z0-9+/_-]+", shown.removeprefix("The key ").removesuffix(" is wrong.")))
    for offset in range(4):
        text = left[offset:].translate(str.maketrans("-_", "+/"))
        assert secret[:6].encode() not in base64.b64decode(text[: len(text) // 4 * 4])
    assert "***" in shown


@given(secret=SECRETS, safe=st.sampled_from(["", "/", "/+=:"]), lower=st.booleans())
def test_a_percent_encoded_secret_is_hidden(secret: str, safe: str, lower: bool) -> None:
    encoded = quote(secret, safe=safe)
    encoded = re.sub(r"%..", lambda found: found[0].lower(), encoded) if lower else encoded
    assert without_secret(f"key={encoded}!", secret) == "key=***!"


@given(
    secret=SECRETS,
    around=AROUND,
    width=st.integers(1, 76),
    end=st.sampled_from(["\n", "\r\n", "\r\n ", "\\n", "\\r\\n", "%0A", "%0D%0A"]),
)
def test_base64_of_a_secret_is_hidden_across_line_breaks(
    secret: str, around: bytes, width: int, end: str
) -> None:
    encoded = base64.b64encode(around + secret.encode() + around).decode()
    lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
    assert "***" in without_secret(end.join(lines), secret)
    core = base64.b64encode(secret.encode()[3:-3]).decode().rstrip("=")[2:-2]
    assert len(core) < 4 or core not in without_secret(end.join(lines), secret).replace(end, "")


@given(secret=SECRETS, mark=st.sampled_from(["", ":", " ", "-", "\\x", "\\\\x", ", 0x"]), upper=st.booleans())
def test_hex_of_a_secret_is_hidden(secret: str, mark: str, upper: bool) -> None:
    digits = [f"{byte:02X}" if upper else f"{byte:02x}" for byte in secret.encode()]
    assert without_secret(f"key <{mark.join(digits)}>", secret) == "key <***>"


@pytest.mark.parametrize("times", [2, 3])
@given(secret=SECRETS)
def test_a_secret_that_was_percent_encoded_more_than_once_is_hidden(secret: str, times: int) -> None:
    encoded = secret
    for _ in range(times):
        encoded = quote(encoded, safe="")
    assert without_secret(f"key={encoded}!", secret) == "key=***!"


@given(secret=SECRETS)
def test_a_secret_in_the_escapes_of_json_or_html_is_hidden(secret: str) -> None:
    for encoded in (
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        json.dumps(secret)[1:-1].replace("/", "\\/"),
        "".join(f"\\u{ord(sign):04X}" for sign in secret),
        "".join(f"&#{ord(sign)};" for sign in secret),
        "".join(f"&#x{ord(sign):x};" for sign in secret),
        html.escape(secret),
    ):
        assert without_secret(f"key=<{encoded}>", secret) == "key=<***>"


@given(text=st.text(max_size=200))
def test_a_text_without_the_secret_stays_as_it_is(text: str) -> None:
    assert without_secret(text, KEY) == text


def test_a_short_secret_hides_nothing_by_chance() -> None:
    assert without_secret("c2sxYm9v, 736b31 and sk1boo", "sk1") == "c2sxYm9v, 736b31 and ***boo"


def test_a_secret_leaves_the_words_of_an_error_in_each_spelling() -> None:
    lines = base64.encodebytes(KEY.encode() * 3).decode()
    for spelling in (lines, KEY.encode().hex(), quote(quote(KEY, safe=""), safe="")):
        error = ProviderError(ErrorKind.AUTH, f"Incorrect key: {spelling}", provider_code=spelling).without(
            KEY
        )
        assert set(error.to_dict()["message"].removeprefix("Incorrect key: ")) <= set("* ")
        assert set(error.provider_code or "") <= set("* ")
