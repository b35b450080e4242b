"""Traces are sent if the environment wants them and the extra is there; else a sentence says why not."""

from __future__ import annotations

import sys

import pytest

from daemon.telemetry.tracing import start_tracing, trace_id_of, traceparent_of, tracer

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The exporters that would begin; no variable of this machine counts."""
    found: list[str] = []
    monkeypatch.setattr("daemon.telemetry.span_export.send_spans", found.append)
    for name in (
        "EXPORTER_OTLP_ENDPOINT",
        "EXPORTER_OTLP_TRACES_ENDPOINT",
        "TRACES_EXPORTER",
        "SDK_DISABLED",
    ):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    return found


@pytest.mark.parametrize(
    ("environ", "exporters"),
    [
        ({}, []),
        ({"EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, ["otlp"]),
        ({"EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ["otlp"]),
        ({"TRACES_EXPORTER": "console"}, ["console"]),
        ({"TRACES_EXPORTER": "none", "EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
        ({"SDK_DISABLED": "true", "EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, []),
    ],
)
def test_the_standard_variables_turn_traces_on(
    environ: dict[str, str], exporters: list[str], sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    assert start_tracing() is None
    assert sent == exporters


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER must be otlp, console or none."),
        (
            {"EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf",
        ),
    ],
)
def test_what_cannot_be_sent_is_said(
    environ: dict[str, str], sentence: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    assert sentence in str(start_tracing())
    assert not sent


def test_without_the_extra_a_sentence_names_it(sent: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setitem(sys.modules, "daemon.telemetry.span_export", None)
    sentence = str(start_tracing())
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set" in sentence
    assert "pip install 'pixmill-daemon[otel]'" in sentence


@pytest.mark.parametrize(("name", "value"), [("BSP_MAX_QUEUE_SIZE", "100"), ("BSP_SCHEDULE_DELAY", "-1")])
def test_a_variable_that_the_sdk_refuses_is_a_sentence(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv(f"OTEL_{name}", value)
    assert "a variable OTEL_* cannot be used" in str(start_tracing())
    assert tracer() is None


def test_nothing_is_recorded_unless_somebody_sets_a_provider() -> None:
    assert tracer() is None


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00-1",
        TRACEPARENT.upper(),
        TRACEPARENT + "\n",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "x" * 9000,
    ],
)
def test_a_wrong_traceparent_goes_nowhere(given: str) -> None:
    assert traceparent_of(given) == ""
    assert trace_id_of(given) == ""


def test_a_right_one_goes_on_as_it_is() -> None:
    assert traceparent_of(TRACEPARENT) == TRACEPARENT
    assert trace_id_of(TRACEPARENT) == "4bf92f3577b34da6a3ce929d0e0e4736"
