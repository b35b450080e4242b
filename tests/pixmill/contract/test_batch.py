"""A batch: items that override defaults, ids that are unique, parts of a larger one."""

from __future__ import annotations

from typing import Any

import pytest

from pixmill.contract import Batch, Job, Rejection, fingerprint_content, parse_entry
from tests.pixmill.contract.test_job import entry, refusal

KIND = "pixmill.batch.v1"


def batch(**fields: Any) -> Batch:
    payload = {"id": "b1", "defaults": {"prompt": "a cup"}, "items": [{"id": "1"}], **fields}
    parsed = parse_entry(entry(payload, KIND))
    assert isinstance(parsed, Batch)
    return parsed


def refused(**fields: Any) -> tuple[str | None, str]:
    payload = {"id": "b1", "defaults": {"prompt": "a cup"}, "items": [{"id": "1"}], **fields}
    rejection = refusal(payload, KIND)
    assert rejection.ident == "b1"
    return rejection.field, rejection.message


def test_an_items_field_overrides_the_default_and_the_rest_is_shared() -> None:
    first, second = batch(
        tenant="shop",
        defaults={"prompt": "a cup", "n": 2, "size": "1:1", "metadata": {"a": "1"}, "x_mine": 1},
        items=[{"id": "1", "n": 1, "metadata": {"b": "2"}}, {"id": "2", "size": None}],
    ).jobs()
    assert (first.id, first.tenant, first.prompt, first.n, first.size) == ("1", "shop", "a cup", 1, "1:1")
    assert first.metadata == {"b": "2"}
    assert (second.n, second.size) == (2, None)


def test_a_merged_job_is_the_job_that_would_have_been_sent_alone() -> None:
    (merged,) = batch(
        defaults={"prompt": "a cup", "output": {"format": "webp"}, "inputs": [{"object": "k"}]},
        items=[{"id": "1", "deadline": "2030-01-01T00:00:00Z", "x_mine": [1]}],
    ).jobs()
    alone = parse_entry(
        entry(
            {
                "id": "1",
                "tenant": "default",
                "prompt": "a cup",
                "output": {"format": "webp"},
                "inputs": [{"object": "k"}],
                "deadline": "2030-01-01T00:00:00Z",
                "x_mine": [1],
            }
        )
    )
    assert isinstance(alone, Job)
    assert merged.to_spec() == alone.to_spec()
    assert merged == Job.from_spec(merged.to_spec())
    assert fingerprint_content(merged) == fingerprint_content(alone)


@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        ({"items": []}, "items", "a list of 1 to 1000 jobs"),
        ({"items": [{"id": str(k)} for k in range(1001)]}, "items", "1001 entries"),
        ({"items": [{"id": "1"}, {"id": "2"}, {"id": "1"}]}, "items.2.id", '"1" is already taken by item 0'),
        ({"items": [{"id": "a", "n": 2}, {"id": "a.1"}]}, "items.1.id", '"a.1" is already taken by item 0'),
        ({"items": [{"id": "a.1"}, {"id": "a", "n": 2}]}, "items.1.id", '"a.1" is already taken by item 0'),
        ({"defaults": {}, "items": [{"id": "1", "prompt": "x"}, {"id": "2"}]}, "items.1.prompt", "missing"),
        ({"items": [{"id": "1", "prompt": None}]}, "items.0.prompt", "missing"),
        ({"items": [{"id": "1", "size": "big"}]}, "items.0.size", "ratio"),
        ({"items": [{"id": "1", "siez": "1:1"}]}, "items.0.siez", "did you mean `size`?"),
        ({"items": [{"id": "1", "tenant": "x"}]}, "items.0.tenant", "belongs to the batch"),
        (
            {"defaults": {"prompt": "x", "seed": 2**63 - 1}, "items": [{"id": "1", "n": 2}]},
            "items.0.seed",
            "n = 2",
        ),
        ({"items": [{}]}, "items.0.id", "missing"),
        ({"items": ["1"]}, "items.0", "as `items` allows"),
        ({"items": {"id": "1"}}, "items", "a list of 1 to 1000 jobs"),
        ({"defaults": {"prompt": "x", "n": 0}}, "defaults.n", "1 to 10, not 0"),
        ({"defaults": {"prompt": "x", "id": "1"}}, "defaults.id", "not a known field"),
        ({"max_in_flight": 0}, "max_in_flight", "1 to 100"),
        ({"max_in_flight": 101}, "max_in_flight", "1 to 100"),
        ({"part": 3, "parts": 2}, "part", "only 2 `parts`"),
        ({"part": 0}, "part", "from 1"),
        ({"parts": 1001}, "parts", "1 to 1000"),
        ({"warnings": ["x"]}, "warnings", "not a known field"),
        ({"id": "b1", "tenant": "a b"}, "tenant", "letters, digits"),
    ],
)
def test_a_problem_in_a_batch_is_named_with_its_place(fields: dict[str, Any], path: str, words: str) -> None:
    field, message = refused(**fields)
    assert field == path
    assert words in message


def test_times_that_only_contradict_after_merging_are_found() -> None:
    field, message = refused(
        defaults={"prompt": "x", "not_before": "2030-01-02T00:00:00Z"},
        items=[{"id": "1"}, {"id": "2", "deadline": "2030-01-01T00:00:00Z"}],
    )
    assert field == "items.1.deadline"
    assert "later than `not_before`" in message


def test_a_larger_batch_comes_in_parts() -> None:
    part = batch(part=2, parts=3, max_in_flight=100, metadata={"deck": "7"})
    assert (part.part, part.parts) == (2, 3)


def test_a_batch_of_one_part_needs_no_part_numbers() -> None:
    assert (batch().part, batch().parts, batch().warnings) == (1, 1, ())


def test_defaults_count_for_every_picture_and_are_refused_uncopied() -> None:
    items = [{"id": f"i{k}"} for k in range(1000)]
    shared = {"prompt": "x", "params": {"style": "x" * 8000}, "n": 10}
    batch = Batch.model_validate({"id": "b", "defaults": shared, "items": items})
    with pytest.raises(Rejection, match="have 76 MiB") as caught:
        batch.jobs()
    assert (caught.value.code, caught.value.field) == ("too_large", "defaults")
    smaller = Batch.model_validate({"id": "b", "defaults": {**shared, "n": 8}, "items": items})
    assert len(smaller.jobs()) == 1000
