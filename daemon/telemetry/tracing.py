"""Traces by OpenTelemetry: whether they are recorded, and the trace that a request belongs to.

The API alone is installed always, and it records nothing. The variables OTEL_* and the extra `otel` turn traces on, or
a tracer provider that was set before, as `opentelemetry-instrument` does.
"""

from __future__ import annotations

import os
import re

from opentelemetry import trace

from pixmill.redaction import redact

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00; zeros alone are no id.
TRACEPARENT = re.compile(r"00-(?!0{32})(?P<trace_id>[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTER = "OTEL_TRACES_EXPORTER"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def start_tracing() -> str | None:
    """Send traces as the environment says; call it once, before the first client.

    Returns a sentence if the environment wants traces and there will be none.
    """
    wanted = next((name for name in (EXPORTER, *ENDPOINTS) if os.environ.get(name)), None)
    exporter = os.environ.get(EXPORTER) or "otlp"
    if wanted is None or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if tracer() is not None:
        return None
    if exporter not in ("otlp", "console"):
        return f"{EXPORTER} must be otlp, console or none."
    protocol = next((name for name in PROTOCOLS if os.environ.get(name)), None)
    if exporter == "otlp" and protocol and os.environ[protocol] != "http/protobuf":
        return f"{protocol} must be http/protobuf: Pixmill sends traces in no other form (port 4318 of a collector)."
    try:
        from daemon.telemetry.span_export import send_spans
    except ImportError:
        install = "pip install 'pixmill-daemon[otel]'"
        return f"{wanted} is set, and traces need the extra `otel`: {install}, or set {EXPORTER}=none."
    try:
        send_spans(exporter)
    except ValueError as error:  # of the SDK, for a variable that it cannot use
        return f"No traces are sent, since a variable OTEL_* cannot be used: {redact(str(error))}."
    return None


def tracer() -> trace.Tracer | None:
    """The tracer of this process, or None if nobody has set a provider, so that nothing is recorded."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    return provider.get_tracer("pixmill")


def traceparent_of(given: str) -> str:
    """The W3C form of the present span; without one, what a caller has `given` if it is valid, or an empty text."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    return given if TRACEPARENT.fullmatch(given) else ""


def trace_id_of(traceparent: str) -> str:
    """The trace that a `traceparent` names, 32 hexadecimal digits; empty if it names none."""
    found = TRACEPARENT.fullmatch(traceparent)
    return found["trace_id"] if found else ""
