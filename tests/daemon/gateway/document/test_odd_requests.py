"""Requests that no client means, as a fuzzer found them: each has an answer that names what is wrong."""

from __future__ import annotations

import pytest

from tests.daemon.gateway.rig import Door, refusal

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a4944415478da6360000000020001e221bc330000000049454e44ae426082"
)


@pytest.mark.parametrize("address", ["/v1/batches", "/v1/dead", "/v1/usage"])
@pytest.mark.parametrize("tenant", ["", "../shop", "%00"])
async def test_a_tenant_that_nobody_can_be_is_not_found(quiet_door: Door, address: str, tenant: str) -> None:
    answer = await quiet_door.http.get(f"{address}?tenant={tenant}")
    assert refusal(answer) == (404, "not_found", None)


@pytest.mark.parametrize("tenant", ["", "../shop"])
async def test_no_picture_is_kept_for_such_a_tenant(quiet_door: Door, tenant: str) -> None:
    answer = await quiet_door.http.post(
        f"/v1/inputs?tenant={tenant}", content=PNG, headers={"content-type": "image/png"}
    )
    assert refusal(answer) == (404, "not_found", None)


async def test_an_empty_tenant_in_a_job_is_not_the_default_one(quiet_door: Door) -> None:
    answer = await quiet_door.http.post("/v1/jobs", json={"prompt": "a cup", "tenant": ""})
    assert refusal(answer) == (422, "invalid", "tenant")


@pytest.mark.parametrize(
    ("address", "methods"), [("/v1/batches", "GET, POST"), ("/v1/jobs/a", "DELETE, GET"), ("/v1/me", "GET")]
)
async def test_a_wrong_method_learns_all_right_ones(quiet_door: Door, address: str, methods: str) -> None:
    answer = await quiet_door.http.request("PUT", address)
    assert refusal(answer) == (405, "method_not_allowed", None)
    assert answer.headers["allow"] == methods


@pytest.mark.parametrize("model", [{}, [], 7, "nobody"])
async def test_a_model_of_any_type_is_one_that_does_not_exist(quiet_door: Door, model: object) -> None:
    answer = await quiet_door.http.post("/v1/images/generations", json={"model": model, "prompt": "a cup"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
