"""A secret is hidden in every spelling in which a provider may quote it."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

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


@given(text=st.text(max_size=200))
def test_a_text_without_the_secret_stays_as_it_is(text: str) -> None:
    assert without_secret(text, KEY) == text


def test_a_short_secret_hides_nothing_by_chance() -> None:
    assert without_secret("c2sxYm9v and sk1boo", "sk1") == "c2sxYm9v and ***boo"
