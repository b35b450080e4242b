"""Checks the signature of a TC3 call as Tencent's gateway does.

Written from the published algorithm and for any set of signed headers, apart from the client's signing: the two
have to agree without sharing a line.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from starlette.datastructures import Headers

_TOLERANCE_S = 300
_AUTHORIZATION = re.compile(
    r"TC3-HMAC-SHA256\s+Credential=(?P<id>[^/]+)/(?P<date>\d{4}-\d\d-\d\d)/(?P<service>[a-z0-9]+)/tc3_request,"
    r"\s*SignedHeaders=(?P<headers>[a-z0-9;-]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


class Refusal(NamedTuple):
    """Tencent's code, and its sentence."""

    code: str
    message: str


def check_signature(
    headers: Headers, body: bytes, *, service: str, secrets: Mapping[str, str], now_s: float
) -> str | Refusal:
    """The secret id that signed the call, or why it is refused."""
    given = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
    stamp = headers.get("x-tc-timestamp", "")
    if given is None or not stamp.isdecimal() or given["service"] != service:
        return Refusal("AuthFailure.InvalidAuthorization", "The Authorization header is not valid.")
    signed = given["headers"].split(";")
    if not {"content-type", "host"} <= set(signed):
        return Refusal("AuthFailure.InvalidAuthorization", "content-type and host must be signed.")
    secret_key = secrets.get(given["id"])
    if secret_key is None:
        return Refusal("AuthFailure.SecretIdNotFound", f"The SecretId {given['id']} is not found.")
    if abs(now_s - int(stamp)) > _TOLERANCE_S:
        return Refusal("AuthFailure.SignatureExpire", "The signature has expired.")
    canonical = [f"{name}:{headers.get(name, '').strip().lower()}\n" for name in signed]
    request = "\n".join(["POST", "/", "", "".join(canonical), given["headers"], _hash(body)])
    text = "\n".join(
        ["TC3-HMAC-SHA256", stamp, f"{given['date']}/{service}/tc3_request", _hash(request.encode())]
    )
    expected = _keyed(_signing_key(secret_key, given["date"], service), text).hex()
    same_day = datetime.fromtimestamp(int(stamp), UTC).date().isoformat() == given["date"]
    if not same_day or not hmac.compare_digest(expected, given["signature"]):
        return Refusal("AuthFailure.SignatureFailure", "The provided credentials could not be validated.")
    return given["id"]


def _signing_key(secret_key: str, date: str, service: str) -> bytes:
    return _keyed(_keyed(_keyed(f"TC3{secret_key}".encode(), date), service), "tc3_request")


def _keyed(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
