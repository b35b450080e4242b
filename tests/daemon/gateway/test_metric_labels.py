"""No label of a metric has an id, an address or a method of a caller's choice."""

from __future__ import annotations

from tests.daemon.gateway.rig import Door

ODD = (
    "/v1/jobs/planted-1",
    "/v1/jobs/planted-2?wait=x",
    "/v1/jobs/planted%2e%2e",
    "/v1/batches/planted/items/planted/images/0",
    "/v1/batches/planted/events",
    "/v1/quotas/planted/pause",
    "/v1/schema/planted",
    "/planted",
    "//planted//",
    "/v1/jobs/..%2fplanted",
    "/v1/jobs/planted/planted/planted",
    "/planted%00planted",
)
METHODS = ("GET", "POST", "DELETE", "PLANTED", "PROPFIND", "get")


def labels(door: Door) -> set[tuple[str, str, str]]:
    registry = door.gateway.metrics.registry
    samples = [sample.labels for metric in registry.collect() for sample in metric.samples]
    return {
        (sample["route_template"], sample["method"], sample.get("status", ""))
        for sample in samples
        if "route_template" in sample
    }


async def test_a_label_never_has_what_a_caller_made_up(quiet_door: Door) -> None:
    async def send(mark: str) -> None:
        for path in ODD:
            for method in METHODS:
                answer = await quiet_door.http.request(method, path.replace("planted", mark))
                assert answer.status_code < 500

    await send("planted")
    first = labels(quiet_door)
    assert {template for template, _, _ in first} > {"none", "/v1/schema/{name}"}
    assert {method for _, method, _ in first} == {"GET", "POST", "DELETE", "other"}
    assert not any("planted" in text.lower() for label in first for text in label)
    await send("other")
    assert labels(quiet_door) == first
