"""Hides a secret in the texts of a provider, in each spelling in which it may be quoted."""

from __future__ import annotations

import base64
import html
import re
from functools import lru_cache

HIDDEN = "***"
# A shorter piece of base64 would match by chance.
_LEAST_BASE64 = 8
_LEAST_HEX = 4  # bytes; fewer would match by chance
_MOST_ESCAPES = 3  # a text that was quoted in a quoted text is escaped once for each
# A long line of base64 is broken: by white space, as mail does, or by its escape in JSON.
_BACKSLASHES = rf"\\{{1,{2**_MOST_ESCAPES}}}"
_BREAK = rf"(?:\s|{_BACKSLASHES}[rnt]|%(?:25)?0[aAdD])*"


def without_secret(text: str, secret: str) -> str:
    """`text` without `secret`: plain, with any of its signs escaped (percent-encoded up to three times, as in JSON or
    HTML), in hex, or inside base64.

    Hex may have a mark between its bytes, such as `:` or `\\x`. Base64 is found in both alphabets, with line breaks,
    and at each of its three alignments, so with anything before and behind the secret.
    """
    return _pattern(secret).sub(HIDDEN, text)


@lru_cache(maxsize=256)
def _pattern(secret: str) -> re.Pattern[str]:
    raw = secret.encode()
    spellings = ["".join(map(_sign, re.findall(r"\\+|[^\\]", secret)))]
    if len(raw) >= _LEAST_HEX:
        spellings.append(rf"(?:[\s:,-]|{_BACKSLASHES}x|0x)*".join(f"(?i:{byte:02x})" for byte in raw))
    spellings += (found for before in range(3) if (found := _base64(raw, before)))
    return re.compile("|".join(spellings))


def _sign(sign: str) -> str:
    """A pattern of one sign, or of a run of backslashes: plain, or escaped as in URLs, JSON and HTML."""
    one, number = sign[0], ord(sign[0])
    percent = "".join(f"%(?:25){{0,{_MOST_ESCAPES - 1}}}(?i:{byte:02x})" for byte in one.encode())
    spellings = [
        percent,
        rf"{_BACKSLASHES}u(?i:{number:04x})",
        f"&#0{{0,6}}{number};",
        f"&#[xX]0{{0,6}}(?i:{number:x});",
    ]
    if one == "\\":
        # JSON doubles each of them. As one run they leave a failed match few ways to try again.
        return f"(?:{'|'.join(spellings)}|{re.escape(one)}){{{len(sign)},{len(sign) * 2**_MOST_ESCAPES}}}"
    if not one.isalnum():
        spellings.append(_BACKSLASHES + re.escape(one))
    # No two spellings may be the same: a failed match would try both for each sign.
    spellings += dict.fromkeys((re.escape(html.escape(one)), re.escape(one)))
    return f"(?:{'|'.join(spellings)})"


def _base64(raw: bytes, before: int) -> str:
    """A pattern of `raw` in base64 where `before` other bytes come before it; empty if its signs are few."""
    first, last = 8 * before, 8 * (before + len(raw))  # bits; a sign has six
    core = base64.b64encode(bytes(before) + raw + bytes(2)).decode()[-(-first // 6) : last // 6]
    if len(core) < _LEAST_BASE64:
        return ""
    # A sign that `raw` shares with what stands beside it goes too; any other one may belong to the next copy of `raw`.
    ahead = rf"(?:[\w+/-]{_BREAK})?" if first % 6 else ""
    behind = rf"(?:{_BREAK}[\w+/-])?" if last % 6 else ""
    return rf"{ahead}{_BREAK.join(map(_both_alphabets, core))}{behind}={{0,2}}"


def _both_alphabets(sign: str) -> str:
    return {"+": "[+-]", "-": "[+-]", "/": "[/_]"}.get(sign, sign)
