"""TC3-HMAC-SHA256, the signature of Tencent Cloud's API 3.0, over exactly the bytes that are sent.

Source: cloud.tencent.com/document/api/213/30654 ("Signature method v3"). The signature covers the POST
body and the headers content-type and host; the path of API 3.0 is always "/" and its query is empty.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime

ALGORITHM = "TC3-HMAC-SHA256"
SIGNED_HEADERS = "content-type;host"


def authorization(
    *,
    secret_id: str,
    secret_key: str,
    service: str,
    host: str,
    content_type: str,
    body: bytes,
    timestamp_s: int,
) -> str:
    """The value of the Authorization header for a POST.

    `host` and `content_type` are the headers' values as they are sent, `host` with its port if it has one.
    `timestamp_s` is the Unix time that goes into X-TC-Timestamp; the day in the credential is its day in UTC.
    """
    date = datetime.fromtimestamp(timestamp_s, UTC).strftime("%Y-%m-%d")
    scope = f"{date}/{service}/tc3_request"
    text = f"{ALGORITHM}\n{timestamp_s}\n{scope}\n{_sha256(_canonical(host, content_type, body))}"
    key = f"TC3{secret_key}".encode()
    for part in (date, service, "tc3_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    return (
        f"{ALGORITHM} Credential={secret_id}/{scope}, SignedHeaders={SIGNED_HEADERS}, Signature={signature}"
    )


def _canonical(host: str, content_type: str, body: bytes) -> bytes:
    headers = f"content-type:{content_type.strip().lower()}\nhost:{host.strip().lower()}\n"
    return f"POST\n/\n\n{headers}\n{SIGNED_HEADERS}\n{_sha256(body)}".encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
