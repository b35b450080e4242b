"""A job as producers send it: every limit of its table, and the words of its refusals."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pixmill.contract import Cancel, Job, Rejection, RetryRequest, parse_entry
from pixmill.contract.entry import NO_TYPES, PayloadTypes

MINIMAL = {"id": "sku1-main", "prompt": "white background product photo"}


def entry(payload: object, kind: str | None = None) -> dict[bytes, bytes]:
    fields = {b"data": payload if isinstance(payload, bytes) else orjson.dumps(payload)}
    return {**fields, b"type": kind.encode()} if kind else fields


def job(**fields: Any) -> Job:
    parsed = parse_entry(entry({**MINIMAL, **fields}))
    assert isinstance(parsed, Job)
    return parsed


def refusal(payload: object, kind: str | None = None, others: PayloadTypes = NO_TYPES) -> Rejection:
    with pytest.raises(Rejection) as caught:
        parse_entry(entry(payload, kind), others)
    return caught.value


def test_a_minimal_job_gets_the_documented_defaults() -> None:
    parsed = job()
    assert (parsed.tenant, parsed.route, parsed.n, parsed.priority) == ("default", "default", 1, "normal")
    assert (parsed.cache, parsed.on_unknown_outcome) == ("off", "retry_once")


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "A.b_c:d-1"},
        {"id": "x" * 128},
        {"tenant": "shop:7"},
        {"prompt": "x"},
        {"prompt": "图" * 32000},
        {"negative_prompt": None},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"seed": 2**63 - 10, "n": 10},
        {"params": {"steps": 8, "guidance": 0.5, "style": "photo", "hd": True}},
        {"params": {str(k): k for k in range(32)}},
        {"size": "16x16384"},
        {"size": "16:9"},
        {"n": 10},
        {"inputs": [{"url": "https://cdn.example/图.png?sig=1"}, {"object": "k", "role": "mask"}]},
        {"inputs": [{"object": "k", "sha256": "0" * 64}] * 16},
        {"output": {"format": "webp", "quality": 100, "thumbnail": False}},
        {"priority": "high"},
        {"max_attempts": 20},
        {"on_unknown_outcome": "retry_once"},
        {"cache": "refresh"},
        {"callback": {"url": "https://hooks.example/x", "events": ["job.succeeded"], "secret": "main"}},
        {"metadata": {f"k{k}": "v" * 256 for k in range(16)}},
        {"x_mine": {"anything": [1, None]}},
        {"not_before": "2030-01-01T00:00:00Z", "deadline": "2030-01-01T01:00:00.25+02:00"},
    ],
)
def test_values_inside_the_limits_are_accepted(fields: dict[str, Any]) -> None:
    fields = {**fields, **({"deadline": "2030-01-01T05:00:00Z"} if "deadline" in fields else {})}
    assert Job.from_spec(job(**fields).to_spec()) == job(**fields)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"id": ""}, "id"),
        ({"id": "-a"}, "id"),
        ({"id": "a b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "x" * 129}, "id"),
        ({"id": 7}, "id"),
        ({"tenant": None}, "tenant"),
        ({"route": "https://evil.example"}, "route"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 32001}, "prompt"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 2**63 - 1, "n": 2}, "seed"),
        ({"seed": 2**63 - 9, "n": 10}, "seed"),
        ({"params": {"a": [1]}}, "params.a"),
        ({"params": {"a": None}}, "params.a"),
        ({"params": {str(k): k for k in range(33)}}, "params"),
        ({"size": "1024"}, "size"),
        ({"size": "1024X1024"}, "size"),
        ({"size": "0x5"}, "size"),
        ({"size": "16x16385"}, "size"),
        ({"size": "1024x1024\n"}, "size"),
        ({"size": "1024:1024"}, "size"),
        ({"n": 0}, "n"),
        ({"n": 11}, "n"),
        ({"n": "3"}, "n"),
        ({"n": None}, "n"),
        ({"inputs": [{}]}, "inputs.0"),
        ({"inputs": [{"url": "https://a.example", "object": "k"}]}, "inputs.0"),
        ({"inputs": [{"url": "ftp://a.example"}]}, "inputs.0.url"),
        ({"inputs": [{"url": "https://u:p@a.example/x"}]}, "inputs.0.url"),
        ({"inputs": [{"object": "k", "sha256": "0" * 63}]}, "inputs.0.sha256"),
        ({"inputs": [{"object": "k", "role": "main"}]}, "inputs.0.role"),
        ({"inputs": [{"object": "k"}] * 17}, "inputs"),
        ({"output": {"format": "gif"}}, "output.format"),
        ({"output": {"quality": 0}}, "output.quality"),
        ({"output": {"path": "../x"}}, "output.path"),
        ({"output": {"thumbnail": "yes"}}, "output.thumbnail"),
        ({"priority": "urgent"}, "priority"),
        ({"max_attempts": 21}, "max_attempts"),
        ({"on_unknown_outcome": "retry"}, "on_unknown_outcome"),
        ({"cache": True}, "cache"),
        ({"callback": {"url": "https://a.example", "events": ["job.done"]}}, "callback.events.0"),
        ({"callback": {}}, "callback.url"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "v" * 257}}, "metadata.a"),
        ({"metadata": {f"k{k}": "" for k in range(17)}}, "metadata"),
        ({"not_before": "2030-01-01T00:00:00"}, "not_before"),
        ({"deadline": "2030-02-30T00:00:00Z"}, "deadline"),
        ({"expires_at": 1893456000}, "expires_at"),
        ({"not_before": "2030-01-02T00:00:00Z", "deadline": "2030-01-01T00:00:00Z"}, "deadline"),
        ({"not_before": "2030-01-02T00:00:00Z", "expires_at": "2030-01-02T02:00:00+02:00"}, "expires_at"),
        ({"api_base": "https://evil.example"}, "api_base"),
        ({"y_mine": 1}, "y_mine"),
    ],
)
def test_values_outside_the_limits_are_refused_by_field(fields: dict[str, Any], path: str) -> None:
    rejection = refusal({**MINIMAL, **fields})
    assert (rejection.code, rejection.field) == ("invalid", path)
    assert f"`{path}`" in rejection.message


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({"id": "a"}, "`prompt` is missing: it must be a text of 1 to 32000 characters."),
        ({**MINIMAL, "n": 0}, "`n` must be a whole number from 1 to 10, not 0."),
        ({**MINIMAL, "n": "3"}, '`n` must be a whole number from 1 to 10, not "3".'),
        ({**MINIMAL, "prompt": ""}, "`prompt` must be a text of 1 to 32000 characters, not empty."),
        ({"id": "a", "promt": "x"}, "`promt` is not a known field; did you mean `prompt`?"),
        (
            {**MINIMAL, "negativePrompt": "x"},
            "`negativePrompt` is not a known field; did you mean `negative_prompt`?",
        ),
        (
            {**MINIMAL, "seed": 2**63 - 1, "n": 3},
            "`seed` is too large for n = 3: picture k gets seed + k, and none may exceed 2^63 - 1.",
        ),
        (
            {**MINIMAL, "inputs": [{"url": "https://s.example/red kettle.jpg"}]},
            "`inputs.0.url` has a blank in it; write it as %20.",
        ),
        ({**MINIMAL, "aspect_ratio": "1:1"}, "`aspect_ratio` is not a known field; did you mean `size`?"),
        ({**MINIMAL, "size": "1024:768"}, '`size` says "1024:768"; a size in pixels is written "1024x768".'),
        (
            {**MINIMAL, "type": "pixmill.job.v1"},
            "`type` is not a field of the data: it is a field of the stream entry, beside `data`.",
        ),
        (
            {**MINIMAL, "priority": 1, "cache": 1},
            "`priority` must be high, normal or low, not 1. (1 more problem in the same payload.)",
        ),
    ],
)
def test_a_refusal_names_the_given_and_the_allowed_value(payload: dict[str, Any], sentence: str) -> None:
    assert refusal(payload).message == sentence


def test_a_refusal_names_tenant_and_job() -> None:
    rejection = refusal({**MINIMAL, "tenant": "shop", "n": 0})
    assert (rejection.tenant, rejection.ident) == ("shop", "sku1-main")


def test_a_refusal_takes_no_tenant_from_a_wrong_id() -> None:
    rejection = refusal({**MINIMAL, "tenant": ["shop"], "id": "../../etc"})
    assert (rejection.tenant, rejection.ident) == (None, None)


def test_a_long_value_is_quoted_only_in_part() -> None:
    assert len(refusal({**MINIMAL, "size": "big " * 5000}).message) < 300


def test_times_are_kept_in_utc_with_their_fraction() -> None:
    spec = orjson.loads(job(not_before="2030-01-01t02:00:00.123456789+02:00").to_spec())
    assert spec["not_before"] == "2030-01-01T00:00:00.123456+00:00"


def test_a_spec_holds_only_given_fields_in_a_stable_order() -> None:
    spec = job(seed=0, x_mine=1, output={"format": "webp"}).to_spec()
    assert spec == (
        b'{"id":"sku1-main","output":{"format":"webp"},"prompt":"white background product photo",'
        b'"seed":0,"x_mine":1}'
    )


def test_a_spec_of_a_newer_replica_is_read_with_its_unknown_fields() -> None:
    spec = b'{"id":"a","prompt":"x","from_the_future":{"a":1},"output":{"depth":16}}'
    assert orjson.loads(Job.from_spec(spec).to_spec()) == orjson.loads(spec)


@pytest.mark.parametrize(
    ("kind", "payload", "model"),
    [
        ("pixmill.cancel.v1", {"batch": "b1", "statuses": ["queued", "held"]}, Cancel),
        ("pixmill.cancel.v1", {"job": "j1", "tenant": "shop"}, Cancel),
        ("pixmill.retry.v1", {"batch": "b1", "statuses": ["failed", "expired"]}, RetryRequest),
    ],
)
def test_cancels_and_retries_name_their_work(kind: str, payload: dict[str, Any], model: type) -> None:
    assert type(parse_entry(entry(payload, kind))) is model


@pytest.mark.parametrize(
    ("kind", "payload", "path"),
    [
        ("pixmill.cancel.v1", {}, None),
        ("pixmill.cancel.v1", {"batch": "b", "statuses": []}, "statuses"),
        ("pixmill.cancel.v1", {"batch": "b", "statuses": ["failed"]}, "statuses.0"),
        ("pixmill.retry.v1", {"job": "j", "statuses": ["succeeded"]}, "statuses.0"),
        ("pixmill.retry.v1", {"id": "j"}, "id"),
    ],
)
def test_a_cancel_or_retry_without_a_sense_is_refused(
    kind: str, payload: dict[str, Any], path: str | None
) -> None:
    assert refusal(payload, kind).field == path
