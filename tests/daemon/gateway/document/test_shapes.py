"""The records of jobs have the fields that the document declares, no more and no fewer."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.gateway.document.jobs import JobRecord
from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_jobs import ended

REQUEST = {
    "prompt": "a kettle",
    "negative_prompt": "steam",
    "seed": 7,
    "size": "1024x1024",
    "params": {"quality": "high"},
    "max_attempts": 3,
}


@pytest.mark.parametrize("pictures", [1, 2])
async def test_a_record_has_the_fields_that_are_declared(door: Door, pictures: int) -> None:
    await door.http.post("/v1/jobs", json={"id": "k1", **REQUEST, "n": pictures})
    record: dict[str, Any] = await ended(door, "/v1/jobs/k1")
    declared = JobRecord.model_fields
    assert set(record) - set(declared) == set()
    assert {name for name, field in declared.items() if field.is_required()} - set(record) == set()
    assert {name: record[name] for name in REQUEST} == REQUEST
