"""Reads parameters of addresses and small bodies; a wrong one is a 400 or a 422 that names it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi import Request

from daemon.gateway.answering.problems import Problem, bad_parameter, invalid, not_found
from daemon.gateway.requests.bodies import read_object
from daemon.settings import parse_duration
from pixmill.contract.fields import IDENT_PATTERN

SMALL_BYTES = 64 * 1024
REASON_CHARS = 200
MOST_WAIT_S = 60

_IDENT = re.compile(IDENT_PATTERN.strip("^$"))


def ident_of(text: str) -> str:
    """A name in an address. Raises Problem 404 for one that no work can have: it tells nothing about others."""
    if not _IDENT.fullmatch(text):
        raise not_found()
    return text


def whole_number(name: str, text: str | None, default: int, least: int, most: int) -> int:
    """A whole number from `least` to `most`; raises Problem 400."""
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII) or not least <= int(text) <= most:
        raise bad_parameter(name, f"`{name}` must be a whole number from {least} to {most}.")
    return int(text)


def one_of(name: str, text: str | None, known: Sequence[str]) -> str | None:
    """A word of a closed list; raises Problem 400."""
    if text is None or text in known:
        return text
    raise bad_parameter(name, f"`{name}` must be one of {', '.join(known)}.")


def flag(name: str, text: str | None) -> bool:
    """A parameter that is given as 1 or true; raises Problem 400."""
    if text in (None, "", "0", "false"):
        return False
    if text in ("1", "true"):
        return True
    raise bad_parameter(name, f"`{name}` must be 1 or 0.")


async def small_object(request: Request) -> dict[str, Any]:
    """The JSON object of a body that may be missing."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return {}
    return await read_object(request, SMALL_BYTES)


async def pause_terms(request: Request) -> tuple[str, float | None]:
    """The reason of a pause, and its length in seconds (None: until a resume), from `{reason, for}`."""
    body = await small_object(request)
    for name in body:
        if name not in ("reason", "for"):
            raise Problem(
                422, "unknown_field", f"`{name}` is not a known field; known are reason, for.", field=name
            )
    reason, length = body.get("reason", ""), body.get("for")
    if not isinstance(reason, str) or len(reason) > REASON_CHARS:
        raise invalid("reason", f"`reason` must be a text of at most {REASON_CHARS} characters.")
    if length is None:
        return " ".join(reason.split()), None
    try:
        for_s = parse_duration(length) if isinstance(length, str) else 0.0
    except ValueError:
        for_s = 0.0
    if for_s <= 0:
        raise invalid("for", '`for` must be a time such as "30s", "10min" or "12h".')
    return " ".join(reason.split()), for_s


# Preferences of a request (RFC 7240)


def preferred_wait_s(request: Request, most_s: int = MOST_WAIT_S) -> int | None:
    """The N of `Prefer: wait=N`, None without it; raises Problem 400 unless it is a number from 0 to `most_s`."""
    given = _preferences(request).get("wait")
    if given is None:
        return None
    if not re.fullmatch(r"\d{1,6}", given, re.ASCII) or int(given) > most_s:
        raise bad_parameter("Prefer", f"`Prefer: wait=N` takes a whole number of seconds from 0 to {most_s}.")
    return int(given)


def prefers_async(request: Request) -> bool:
    """Whether the request has `Prefer: respond-async`."""
    return "respond-async" in _preferences(request)


def _preferences(request: Request) -> dict[str, str]:
    """The preferences by name; the first one of a name counts, and parameters of a preference are left out."""
    found: dict[str, str] = {}
    for text in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = text.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found
