"""A stream runs at the edge of the gateway, after its request; an error inside it is no silent end."""

from __future__ import annotations

import traceback
from collections.abc import AsyncGenerator

import httpx2
import pytest
from structlog.testing import capture_logs

from daemon.gateway.events.stream import EventStream
from tests.daemon.gateway.rig import Door
from tests.daemon.harness import eventually

EVENTS = "/v1/events"


async def test_a_stream_runs_after_its_endpoint_has_returned(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[str] = []

    async def frames(_: EventStream) -> AsyncGenerator[bytes, None]:
        files.extend(frame.filename for frame in traceback.extract_stack())
        yield b"retry: 1\n\n"

    monkeypatch.setattr(EventStream, "frames", frames)
    assert (await quiet_door.http.get(EVENTS)).text == "retry: 1\n\n"
    assert any(file.endswith("gateway/edge.py") for file in files)
    assert not any(file.endswith("fastapi/routing.py") for file in files)


async def test_an_error_inside_a_stream_is_logged_and_counted_once_and_closes_it(
    quiet_door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def frames(_: EventStream) -> AsyncGenerator[bytes, None]:
        yield b"retry: 1\n\n"
        raise RuntimeError("broken on purpose")

    monkeypatch.setattr(EventStream, "frames", frames)
    with capture_logs() as logged:
        with pytest.raises(httpx2.RemoteProtocolError):
            await quiet_door.http.get(EVENTS, headers={"x-request-id": "mine"})

        async def counted() -> bool:
            labels = {"route_template": EVENTS, "method": "GET", "status": "200"}
            registry = quiet_door.gateway.metrics.registry
            return registry.get_sample_value("pixmill_http_requests_total", labels) == 1

        await eventually(counted)
    assert [each for each in logged if each["log_level"] == "error"] == []
    assert [record.name for record in caplog.records if record.exc_info] == ["uvicorn.error"]
    assert "request mine for /v1/events" in caplog.text
