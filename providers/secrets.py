"""Hides a secret in the texts of a provider, in each spelling in which it may be quoted."""

from __future__ import annotations

import base64
import re
from functools import lru_cache

HIDDEN = "***"
# A shorter piece of base64 would match by chance.
_LEAST_BASE64 = 8


def without_secret(text: str, secret: str) -> str:
    """`text` without `secret`: plain, with any of its signs percent-encoded, or inside base64.

    Base64 is found in both alphabets and at each of its three alignments, so with anything before and behind the
    secret.
    """
    return _pattern(secret).sub(HIDDEN, text)


@lru_cache(maxsize=256)
def _pattern(secret: str) -> re.Pattern[str]:
    percent = "".join(f"(?:{_percent(sign)}|{re.escape(sign)})" for sign in secret)
    cores = (_base64_core(secret.encode(), before) for before in range(3))
    # The signs at both ends are shared with what stands beside the secret.
    encoded = (rf"[\w+/-]?{_both_alphabets(core)}[\w+/-]?={{0,2}}" for core in cores if core)
    return re.compile("|".join([percent, *encoded]))


def _percent(sign: str) -> str:
    return "".join(f"%(?i:{byte:02x})" for byte in sign.encode())


def _base64_core(raw: bytes, before: int) -> str:
    """The signs that stand for `raw` alone where `before` other bytes come before it; empty if they are few."""
    whole = base64.b64encode(bytes(before) + raw + bytes(2)).decode()
    core = whole[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]
    return core if len(core) >= _LEAST_BASE64 else ""


def _both_alphabets(core: str) -> str:
    return core.replace("+", "[+-]").replace("/", "[/_]")
