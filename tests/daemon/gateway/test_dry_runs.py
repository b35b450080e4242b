"""A dry run: what a batch would need, what is refused of it, and nothing stored."""

from __future__ import annotations

from typing import Any

import pytest

from tests.daemon.gateway.rig import Door
from tests.daemon.gateway.test_batches import LINES, batch, keys, lines

LATE_FAULT = {"id": "bad", "prompt": "x", "route": "none"}
FINE = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "x", "n": 2}]


@pytest.mark.parametrize("fault", [LATE_FAULT, {"id": "bad", "prompt": "x", "size": 3}, {"id": "bad"}])
@pytest.mark.parametrize("form", ["json", "lines"])
async def test_a_dry_run_counts_the_items_without_a_fault(
    quiet_door: Door, form: str, fault: dict[str, Any]
) -> None:
    items = [FINE[0], fault, FINE[1], {**fault, "id": "worse"}]
    sent: dict[str, Any] = {"json": {"items": items}}
    if form == "lines":
        sent = {"content": lines({}, *items), "headers": LINES}
    answer = await quiet_door.http.post("/v1/batches?dry_run=true", **sent)
    assert (answer.status_code, answer.json()["pictures"]) == (200, 3)
    assert len({(each["line"], each["field"]) for each in answer.json()["refused"]}) >= (
        2 if form == "lines" else 1
    )


@pytest.mark.parametrize(
    "head", [{"defaults": {"size": 3}}, {"max_in_flight": 0}, {"parts": 2}, {"idd": "x"}]
)
@pytest.mark.parametrize("form", ["json", "lines"])
async def test_a_dry_run_refuses_a_wrong_head(quiet_door: Door, form: str, head: dict[str, Any]) -> None:
    sent: dict[str, Any] = {"json": {**head, "items": FINE}}
    if form == "lines":
        sent = {"content": lines(head, *FINE), "headers": LINES}
    answer = await quiet_door.http.post("/v1/batches?dry_run=true", **sent)
    assert (answer.status_code, answer.json()["pictures"]) == (200, 0)
    (fault,) = answer.json()["refused"]
    assert fault["message"]
    assert (await quiet_door.http.post("/v1/batches", **sent)).status_code == 422


async def test_a_dry_run_counts_and_stores_nothing(quiet_door: Door) -> None:
    before = await keys(quiet_door)
    content = batch("b1", 3, defaults={"n": 2})
    plan = (await quiet_door.http.post("/v1/batches?dry_run=true", json=content)).json()
    assert (plan["pictures"], plan["refused"]) == (6, [])
    wrong = lines(
        {}, {"id": "a", "prompt": "x"}, {"id": "b", "promt": "x"}, {"id": "a", "prompt": "y", "size": 3}
    )
    plan = (await quiet_door.http.post("/v1/batches?dry_run=true", content=wrong, headers=LINES)).json()
    assert {(fault["line"], fault["field"]) for fault in plan["refused"]} >= {(3, "promt"), (4, "size")}
    assert await keys(quiet_door) == before
