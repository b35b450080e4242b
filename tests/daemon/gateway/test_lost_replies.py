"""A reply of Redis that is lost after a write: the caller still learns the name of its work."""

from __future__ import annotations

from typing import Any

import pytest
from redis.exceptions import TimeoutError as LateError

from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_batches import batch


def lose_reply(patch: pytest.MonkeyPatch, of: Any, call: str) -> None:
    """Let a call do its work, and lose the reply."""
    real = getattr(of, call)

    async def lost(*given: Any, **more: Any) -> Any:
        await real(*given, **more)
        raise LateError("no reply")

    patch.setattr(of, call, lost)


@pytest.mark.parametrize(
    ("path", "body", "below"),
    [
        ("/v1/jobs", {"prompt": "x"}, "jobs"),
        ("/v1/jobs", {"prompt": "x", "n": 2}, "jobs"),
        ("/v1/batches", {"items": [{"id": "a", "prompt": "x"}]}, "batches"),
        ("/v1/images/generations", {"prompt": "x"}, "images/tasks"),
        ("/v1/images/generations/async", {"prompt": "x"}, "images/tasks"),
    ],
)
async def test_a_lost_reply_names_the_work_that_may_be_recorded(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, Any], below: str
) -> None:
    acceptor = quiet_door.gateway.acceptor
    for call in ("job", "part"):
        lose_reply(monkeypatch, acceptor, call)
    answer = await quiet_door.http.post(path, json=body)
    assert answer.status_code == 503
    said = answer.json().get("error", answer.json())
    assert said["code"] == "redis_unavailable"
    assert answer.headers["location"] == f"{quiet_door.url}/v1/{below}/{said['id']}"
    assert (await quiet_door.http.get(answer.headers["location"])).status_code == 200


async def test_a_batch_whose_record_cannot_be_read_is_accepted(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        lose_reply(patch, quiet_door.gateway.records, "group")
        answer = await quiet_door.http.post("/v1/batches", json=batch("b1", 3))
    assert answer.status_code == 202
    assert (answer.json()["total"], answer.json()["counts"]["queued"]) == (3, 3)
    assert (await quiet_door.http.get(answer.headers["location"])).json()["counts"] == answer.json()["counts"]
