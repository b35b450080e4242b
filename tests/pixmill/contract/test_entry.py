"""Reading an entry: any bytes give a model or a Rejection, and no error shows a secret."""

from __future__ import annotations

import timeit
from functools import partial
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.compat.studio import STUDIO_TYPE, studio_types
from pixmill.contract import Batch, Cancel, Job, Rejection, RetryRequest, contains_secret, parse_entry
from pixmill.contract.entry import BATCH_TYPE, CANCEL_TYPE, JOB_TYPE, RETRY_TYPE
from tests.pixmill.contract.test_job import MINIMAL, entry, job, refusal

TYPES = (JOB_TYPE, BATCH_TYPE, CANCEL_TYPE, RETRY_TYPE, STUDIO_TYPE)
STUDIO = studio_types("studio")
PLANTED = "sk-planted-4f9a1c7e22b0d6"


def test_an_entry_without_data_is_malformed() -> None:
    with pytest.raises(Rejection, match="no field `data`") as caught:
        parse_entry({b"payload": b"{}"}, STUDIO)
    assert caught.value.code == "malformed"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[1]", b"3", b"null", b'"x"', b'{"a":NaN}', b"{}{}"]
)
def test_data_that_is_no_json_object_is_malformed(data: bytes) -> None:
    assert refusal(data).code == "malformed"


def test_exactly_256_kib_are_allowed() -> None:
    frame = orjson.dumps({**MINIMAL, "x_fill": ""})
    fill = 256 * 1024 - len(frame)
    assert isinstance(parse_entry(entry({**MINIMAL, "x_fill": "a" * fill}), STUDIO), Job)
    rejection = refusal({**MINIMAL, "x_fill": "a" * (fill + 1)})
    assert (rejection.code, rejection.field) == ("too_large", "data")


def test_json_of_32_levels_is_read_and_of_33_is_not() -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels - 1):
            value = [value]
        return {**MINIMAL, "x_deep": value}

    assert isinstance(parse_entry(entry(nested(32))), Job)
    assert refusal(nested(33)).code == "malformed"
    assert refusal({**nested(33), "token": PLANTED}).code == "secret_in_payload"
    assert refusal({**nested(33), "x_deep": [nested(33), {"deeper": nested(33)}]}).code == "malformed"


def test_a_credential_below_the_deepest_level_is_still_noticed() -> None:
    data = b'{"id":"a","x":' + b'{"a":' * 40 + b'{"api_key":"k"}' + b"}" * 41
    assert refusal(data).code == "secret_in_payload"


def test_depth_beyond_any_stack_is_malformed_too() -> None:
    assert refusal(b'{"a":' + b"[" * 100_000).code == "malformed"


@pytest.mark.parametrize("kind", ["pixmill.job.v2", "job", "", "\udcff"])
def test_an_unknown_type_has_a_code_of_its_own(kind: str) -> None:
    with pytest.raises(Rejection) as caught:
        parse_entry({b"data": b"whatever", b"type": kind.encode("utf-8", "surrogateescape")}, STUDIO)
    assert (caught.value.code, caught.value.field) == ("unknown_type", "type")


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": PLANTED},
        {"API_KEY": PLANTED},
        {"params": {"apiKey": PLANTED}},
        {"params": {"secret_id": PLANTED}},
        {"metadata": {"Secret-Key": PLANTED}},
        {"x_mine": [{"deep": [{"Authorization": PLANTED}]}]},
        {"x_token": PLANTED},
        {"inputs": [{"object": "k", "token": PLANTED}]},
        {"x-api-key": PLANTED},
        {"callback": {"url": "https://a.example", "secret": f"whsec_{PLANTED}"}},
    ],
)
def test_a_credential_anywhere_in_a_job_is_refused_and_not_repeated(fields: dict[str, Any]) -> None:
    rejection = refusal({**MINIMAL, **fields})
    assert rejection.code == "secret_in_payload"
    assert rejection.ident == "sku1-main"
    assert PLANTED not in str(rejection) + repr(rejection)


def test_a_credential_in_an_items_field_is_found() -> None:
    rejection = refusal({"id": "b", "items": [{"id": "1", "prompt": "x", "token": PLANTED}]}, BATCH_TYPE)
    assert (rejection.code, rejection.field) == ("secret_in_payload", "items.0.token")


def test_a_credential_beside_the_data_is_found() -> None:
    with pytest.raises(Rejection) as caught:
        parse_entry({**entry(MINIMAL), b"api_key": PLANTED.encode()}, STUDIO)
    assert caught.value.code == "secret_in_payload"


def test_a_key_that_is_itself_a_secret_is_not_repeated() -> None:
    for fields in ({PLANTED: 1}, {"metadata": {PLANTED: 1}}, {"x_a": {PLANTED: {"token": 1}}}):
        rejection = refusal({**MINIMAL, **fields})
        assert PLANTED not in f"{rejection} {rejection!r} {rejection.field}"


def test_words_that_only_look_alike_are_no_credentials() -> None:
    parsed = job(
        prompt="an api_key and a token",
        params={"max_tokens": 5},
        callback={"url": "https://a.example", "secret": "main"},
    )
    assert parsed.callback is not None
    assert parsed.callback.secret == "main"


def test_unreadable_data_with_a_credential_is_not_kept() -> None:
    data = b'{"id":"a","api_key":"' + PLANTED.encode()
    assert refusal(data).code == "secret_in_payload"
    assert contains_secret(data)
    assert not contains_secret(b'{"id":"a","prompt":"token')


@pytest.mark.parametrize(
    "text",
    [
        "{'id': 'x', 'api_key': '%s'}",
        "{'id': 'x', 'headers': {'Authorization' : 'Bearer %s'}}",
        "{'secret_id': '%s'",
        '{"data": "{\\"api_key\\": \\"%s\\"}"',
        '{"x-api-key": "%s"',
        '{"token": "%s"',
        "{id: 'x', apiKey: '%s'}",
        "id=x&api_key=%s",
        "OPENAI_API_KEY=%s",
        "api-key: %s",
        "Authorization: Bearer %s",
        "secret_key = %s",
        "token: %s",
        "token='%s'",
    ],
)
def test_a_credential_is_noticed_in_data_that_is_not_json(text: str) -> None:
    data = (text % PLANTED).encode()
    rejection = refusal(data)
    assert rejection.code == "secret_in_payload"
    assert PLANTED not in str(rejection)
    assert contains_secret(data.decode().encode("utf-16-le"))


@pytest.mark.parametrize(
    "text",
    [
        "{'id': 'x', 'prompt': 'a kettle'}",
        '{"prompt":"a subway token: brass, worn"',
        '{"inputs":[{"url":"https://cdn.example/a.png?v=1&token=0123456789abcdef0123"}]',
        '{"max_tokens": 5',
        '{"prompt":"the secret key of the castle"',
    ],
)
def test_words_that_only_look_alike_keep_their_dead_letter(text: str) -> None:
    assert not contains_secret(text.encode())


def test_the_search_for_credentials_is_quick_in_the_largest_entry() -> None:
    """Milliseconds; the bound only catches a search that looks at every stretch of the text again and again."""
    for filling in (b"\\", b"'", b" ", b"token", b"api_key ", b"token="):
        search = partial(contains_secret, filling * (256 * 1024 // len(filling)))
        assert min(timeit.repeat(search, number=1, repeat=3)) < 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
VALID: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        JOB_TYPE,
        {
            **MINIMAL,
            "tenant": "shop",
            "seed": 0,
            "n": 2,
            "size": "16:9",
            "params": {"steps": 8},
            "inputs": [{"url": "https://a.example/x.png", "role": "mask"}],
            "output": {"format": "webp", "quality": 90},
            "not_before": "2030-01-01T00:00:00Z",
            "deadline": "2031-01-01T00:00:00Z",
            "callback": {"url": "https://a.example", "events": ["job.failed"]},
            "metadata": {"a": "b"},
        },
    ),
    (
        BATCH_TYPE,
        {
            "id": "b1",
            "defaults": {"prompt": "a cup", "n": 2},
            "items": [{"id": "1"}, {"id": "2", "size": "1:1", "metadata": {"a": "b"}}],
            "max_in_flight": 3,
            "parts": 2,
        },
    ),
    (CANCEL_TYPE, {"batch": "b1", "statuses": ["queued"]}),
    (RETRY_TYPE, {"job": "j1", "tenant": "shop"}),
    (
        STUDIO_TYPE,
        {
            "job_id": "j1",
            "user_id": "u1",
            "mode": "batch_series_generate",
            "options": {
                "sku_images_map": {"S1": [{"url": "https://a.example/1.jpg", "name": "1.jpg", "stem": "1"}]},
                "settings": {"imageSize": "512x512", "quality": 90},
                "api_key": PLANTED,
                "target_width": 512,
                "target_height": 512,
                "output_format": "jpg",
                "prompt_templates": {"common_cn": "x", "main_cn": "y", "opt_remove_logo_cn": "z"},
            },
        },
    ),
)


def read(payload: Any, kind: str) -> object:
    """A model, or the Rejection; anything else that is raised fails the test."""
    outcome: object
    try:
        outcome = parsed = parse_entry(entry(payload, kind), STUDIO)
    except Rejection as rejection:
        outcome = rejection
    if isinstance(outcome, Rejection):
        assert outcome.message.endswith((".", "?", ".)"))
        assert len(outcome.message) < 1500
        return outcome
    assert isinstance(parsed, Job | Batch | Cancel | RetryRequest)
    if isinstance(parsed, Job):
        assert Job.from_spec(parsed.to_spec()) == parsed
    if isinstance(parsed, Batch):
        assert len(parsed.jobs()) == len(parsed.items)
    return parsed


@given(st.dictionaries(st.text(max_size=12), JSON, max_size=6), st.sampled_from(TYPES))
@settings(max_examples=150, deadline=None)
def test_any_json_object_is_a_model_or_a_rejection(payload: dict[str, Any], kind: str) -> None:
    read(payload, kind)


@given(st.binary(max_size=200), st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_a_model_or_a_rejection(data: bytes, kind: bytes) -> None:
    with pytest.raises(Rejection):
        parse_entry({b"data": data, b"type": kind}, STUDIO)


@given(st.sampled_from(VALID), st.data())
@settings(max_examples=400, deadline=None)
def test_a_valid_payload_with_any_change_is_a_model_or_a_rejection(
    valid: tuple[str, dict[str, Any]], data: st.DataObject
) -> None:
    kind, payload = valid
    read(mutated(payload, data), kind)


@given(
    st.sampled_from(VALID), st.data(), st.sampled_from(["api_key", "token", "Secret_Id", "x_authorization"])
)
@settings(max_examples=150, deadline=None)
def test_a_planted_secret_never_occurs_in_words(
    valid: tuple[str, dict[str, Any]], data: st.DataObject, name: str
) -> None:
    kind, payload = valid
    changed = mutated(payload, data)
    objects = [node for node in nodes(changed) if isinstance(node, dict)]
    data.draw(st.sampled_from(objects))[name] = PLANTED
    outcome = read(changed, kind)
    assert PLANTED not in str(outcome) + repr(outcome)


def test_the_valid_payloads_of_these_tests_are_valid() -> None:
    for kind, payload in VALID:
        assert not isinstance(read(payload, kind), Rejection)


def mutated(payload: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """A copy in which one value, somewhere, is replaced, removed, or has a new neighbour."""
    copy: dict[str, Any] = orjson.loads(orjson.dumps(payload))
    places = [
        (node, key) for node in nodes(copy) for key in (node if isinstance(node, dict) else range(len(node)))
    ]
    node, key = data.draw(st.sampled_from(places))
    change = data.draw(st.sampled_from(["replace", "remove", "add"]))
    if change == "replace" or (change == "add" and isinstance(node, list)):
        node[key] = data.draw(JSON)
    elif change == "remove":
        del node[key]
    else:
        node[data.draw(st.text(max_size=12))] = data.draw(JSON)
    return copy


def nodes(value: Any) -> list[Any]:
    if not isinstance(value, dict | list):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(node for child in inner for node in nodes(child))]
