"""The block under "Tracing" in docs/operating.md sends the whole way of a job to a collector."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.docs.test_operating import _lines
from tests.e2e.processes import Command, wait_until

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PLANTED = "planted-4f9a8b7c"


class Collector:
    """Keeps what is sent by OTLP over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                collector.bodies.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self) -> dict[str, Span]:
        """The spans of the trace, by their name."""
        sent = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        found = [
            span
            for each in sent
            for resource in each.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return {span.name: span for span in found if span.trace_id.hex() == TRACE}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    opened = Collector()
    yield opened
    opened.close()


def test_the_documented_command_traces_a_request_to_the_end_of_its_job(
    collector: Collector, tmp_path: Path
) -> None:
    install, command = _lines("pixmill-daemon[otel]")
    assert install == "pip install 'pixmill-daemon[otel]'"
    (variable,) = re.findall(r"^(\w+)=http://localhost:4318 pixmill up$", command)
    up = Command(
        ["up", "--metrics", "127.0.0.1:0"],
        tmp_path,
        **{variable: collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"},
    )
    try:
        url = up.wait_for("  http ").split()[-1]
        caller = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        job = {"id": "a", "prompt": f"a {PLANTED} cup"}
        assert httpx2.post(f"{url}/v1/jobs?key={PLANTED}", json=job, headers=caller).status_code == 202
        whole = {"POST /v1/jobs", "process pixmill:q:default", "settle pixmill:q:default", "persist"}
        wait_until(
            lambda: whole <= collector.spans().keys(), 30, lambda: f"{up.output}\n{collector.spans().keys()}"
        )
    finally:
        up.stop()
    spans = collector.spans()
    request, run = spans["POST /v1/jobs"], spans["process pixmill:q:default"]
    assert request.parent_span_id.hex() == CALLER
    assert run.parent_span_id == request.span_id
    assert spans["generate_content simulated"].parent_span_id == run.span_id
    sent = b"".join(collector.bodies)
    assert PLANTED.encode() not in sent
    assert b"service.name" in sent
