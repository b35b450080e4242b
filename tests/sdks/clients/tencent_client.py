"""Tencent Cloud's own SDK for aiart: submits and queries, typed and by name, and its signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lines import serve
from tencentcloud.aiart.v20221229 import errorcodes
from tencentcloud.aiart.v20221229.aiart_client import AiartClient
from tencentcloud.aiart.v20221229.models import QueryTextToImageJobRequest, SubmitTextToImageJobRequest
from tencentcloud.common.credential import Credential
from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
from tencentcloud.common.http.request import RequestInternal
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile
from tencentcloud.common.retry import StandardRetryer

REQUESTS = {
    "SubmitTextToImageJob": SubmitTextToImageJobRequest,
    "QueryTextToImageJob": QueryTextToImageJobRequest,
}


def call(op: str, **given: Any) -> Mapping[str, Any]:
    ops = {"typed": _typed, "by_name": _by_name, "signature": _signature, "codes": _codes}
    return ops[op](**given)


def _typed(action: str, fields: Mapping[str, Any], **account: Any) -> Mapping[str, Any]:
    request = REQUESTS[action]()
    request._deserialize(fields)
    answer = getattr(_client(**account), action)(request)
    # Everything that the SDK knows of this answer.
    return {"fields": answer._serialize(allow_none=True)}


def _by_name(action: str, fields: Mapping[str, Any], **account: Any) -> Mapping[str, Any]:
    return {"fields": _client(**account).call_json(action, fields)["Response"]}


def _signature(
    secret_key: str, host: str, content_type: str, body: str, timestamp_s: int, date: str
) -> Mapping[str, Any]:
    request = RequestInternal(host, "POST", "/")
    request.header = {"Content-Type": content_type, "Host": host, "X-TC-Timestamp": str(timestamp_s)}
    request.data = body
    client = _client("127.0.0.1", "id", secret_key)
    return {"signature": client._get_tc3_signature({}, request, date, "aiart", secret_key)}


def _codes() -> Mapping[str, Any]:
    return {"codes": [value for name, value in vars(errorcodes).items() if name.isupper()]}


def _client(
    endpoint: str,
    secret_id: str,
    secret_key: str,
    region: str = "ap-guangzhou",
    timeout_s: float = 20,
    attempts: int | None = None,
) -> AiartClient:
    http = HttpProfile(protocol="http", endpoint=endpoint, reqTimeout=timeout_s)
    profile = ClientProfile(httpProfile=http, language="en-US")
    if attempts is not None:
        profile.retryer = StandardRetryer(attempts, backoff_fn=lambda _: 0)
    return AiartClient(Credential(secret_id, secret_key), region, profile)


def told(error: Exception) -> Mapping[str, Any]:
    if not isinstance(error, TencentCloudSDKException):
        return {}
    return {
        "code": error.get_code(),
        "message": str(error.get_message()),
        "request_id": error.get_request_id(),
    }


if __name__ == "__main__":
    serve(call, told)
