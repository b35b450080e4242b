"""Sends spans with the SDK of OpenTelemetry, which only the extra `otel` installs.

An exporter gets no text that others wrote: addresses without path and query, no headers, no messages of exceptions.
Paths and queries carry signatures and secrets of webhooks, and messages may quote a prompt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import Status

ADDRESSES = ("url.full", "http.url")
# A caller may choose the path and the query of a request, and a method that HTTP does not know.
CHOSEN = ("url.path", "url.query", "http.target", "http.request.method_original")
HEADERS = ("http.request.header.", "http.response.header.")


def send_spans(exporter: str) -> None:
    """Record every span of this process, and send it: by `otlp` over HTTP, or to the `console` (stdout).

    The SDK reads the rest of OTEL_* itself. A thread sends the spans, and the end of the process sends the rest.
    """
    target = ConsoleSpanExporter() if exporter == "console" else OTLPSpanExporter()
    provider = TracerProvider(resource=_resource())
    provider.add_span_processor(BatchSpanProcessor(CleanExporter(target)))
    trace.set_tracer_provider(provider)
    instrument_http(provider)


def instrument_http(provider: TracerProvider) -> None:
    """Let each request of the HTTP client be a span of this provider."""
    # The names of attributes that are stable; those before them are still the default of the library.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    HTTPX2ClientInstrumentor().instrument(tracer_provider=provider)


def _resource() -> Resource:
    is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return Resource.create({} if is_named else {SERVICE_NAME: "pixmill"})


class CleanExporter(SpanExporter):
    """Passes spans on without what libraries add from the outside."""

    def __init__(self, target: SpanExporter) -> None:
        self._target = target

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._target.export([_cleaned(span) for span in spans])

    def shutdown(self) -> None:
        self._target.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._target.force_flush(timeout_millis)


def _cleaned(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_clean_attributes(span.attributes or {}),
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _clean_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in attributes.items()
        if name not in CHOSEN and not name.startswith(HEADERS)
    }
    return kept | {name: _origin(str(kept[name])) for name in ADDRESSES if name in kept}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
