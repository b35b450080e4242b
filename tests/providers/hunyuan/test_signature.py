"""TC3 signatures: known answers, a second implementation, and the check of the simulator's gateway."""

from __future__ import annotations

import hashlib
import hmac
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from providers.hunyuan.signature import authorization
from providers.simulator.wires.tc3_check import Refusal, check_signature
from tests.providers.hunyuan.tc3_vectors import SECRET_ID, SECRET_KEY, VECTORS, Vector

JSON = "application/json"

hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?(:[1-9][0-9]{0,4})?", fullmatch=True)
keys = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/,"), min_size=1, max_size=40
)
instants = st.integers(0, 4_102_444_800)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_the_signature_is_the_vendors(vector: Vector) -> None:
    signed = authorization(
        secret_id=SECRET_ID,
        secret_key=SECRET_KEY,
        service="aiart",
        host=vector.host,
        content_type=JSON,
        body=vector.body.encode(),
        timestamp_s=vector.timestamp_s,
    )
    assert signed == (
        f"TC3-HMAC-SHA256 Credential={SECRET_ID}/{vector.date}/aiart/tc3_request, "
        f"SignedHeaders=content-type;host, Signature={vector.signature}"
    )


def written_out(secret_id: str, secret_key: str, host: str, body: bytes, at_s: int) -> str:
    """The published algorithm, step by step and without helpers."""
    day = time.strftime("%Y-%m-%d", time.gmtime(at_s))
    lines = ["POST", "/", "", f"content-type:{JSON}", f"host:{host}", "", "content-type;host"]
    lines.append(hashlib.sha256(body).hexdigest())
    hashed = hashlib.sha256("\n".join(lines).encode("utf-8")).hexdigest()
    to_sign = "TC3-HMAC-SHA256\n" + str(at_s) + "\n" + day + "/aiart/tc3_request\n" + hashed
    date_key = hmac.new(b"TC3" + secret_key.encode("utf-8"), day.encode("utf-8"), hashlib.sha256).digest()
    service_key = hmac.new(date_key, b"aiart", hashlib.sha256).digest()
    signing_key = hmac.new(service_key, b"tc3_request", hashlib.sha256).digest()
    signature = hmac.new(signing_key, to_sign.encode("utf-8"), hashlib.sha256).hexdigest()
    parts = [f"Credential={secret_id}/{day}/aiart/tc3_request", "SignedHeaders=content-type;host"]
    return "TC3-HMAC-SHA256 " + ", ".join([*parts, "Signature=" + signature])


def ours(secret_id: str, secret_key: str, host: str, body: bytes, at_s: int) -> str:
    return authorization(
        secret_id=secret_id,
        secret_key=secret_key,
        service="aiart",
        host=host,
        content_type=JSON,
        body=body,
        timestamp_s=at_s,
    )


@given(keys, keys, hosts, st.binary(max_size=300), instants)
def test_ours_and_the_written_out_algorithm_agree(
    secret_id: str, secret_key: str, host: str, body: bytes, at_s: int
) -> None:
    assert ours(secret_id, secret_key, host, body, at_s) == written_out(
        secret_id, secret_key, host, body, at_s
    )


def checked(signed: str, host: str, body: bytes, at_s: int, *, now_s: float | None = None) -> str | Refusal:
    headers = Headers(
        {"authorization": signed, "host": host, "content-type": JSON, "x-tc-timestamp": str(at_s)}
    )
    now_s = at_s if now_s is None else now_s
    return check_signature(headers, body, service="aiart", secrets={"id": "key"}, now_s=now_s)


@given(hosts, st.binary(max_size=300), instants)
def test_the_simulator_accepts_what_we_sign_and_nothing_else(host: str, body: bytes, at_s: int) -> None:
    signed = ours("id", "key", host, body, at_s)
    assert checked(signed, host, body, at_s) == "id"
    for refused, code in (
        (checked(signed, host, body + b" ", at_s), "SignatureFailure"),
        (checked(signed, "other", body, at_s), "SignatureFailure" if host != "other" else ""),
        (checked(signed, host, body, at_s + 1), "SignatureFailure"),
        (checked(ours("id", "kez", host, body, at_s), host, body, at_s), "SignatureFailure"),
        (checked(ours("ie", "key", host, body, at_s), host, body, at_s), "SecretIdNotFound"),
        (checked(signed, host, body, at_s, now_s=at_s + 301), "SignatureExpire"),
        (checked(signed, host, body, at_s, now_s=at_s - 301), "SignatureExpire"),
        (checked("Bearer key", host, body, at_s), "InvalidAuthorization"),
    ):
        assert not code or (isinstance(refused, Refusal) and refused.code == f"AuthFailure.{code}")
