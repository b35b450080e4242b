"""A run leaves the spans that docs/operating.md names, and they hold no prompt and no key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from daemon.service import worker
from daemon.settings import Settings
from daemon.telemetry.span_export import CleanExporter, instrument_http
from daemon.worker.spans import spans_of
from providers.simulator import Simulator
from providers.simulator.faults import Fault, FaultKind
from tests.daemon.harness import eventually
from tests.servers import RedisServer

TRACE, PRODUCER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PRODUCER}-01"
KEY = "sk-planted-4f9a8b7c6d5e4f3a2b1c"
PROMPT = "a planted prompt"
QUEUE = "pixmill:q:default"
QUOTA = {"images": "50/s", "in_flight": 8}


@pytest.fixture
def uncleaned() -> InMemorySpanExporter:
    """What the exporter of a foreign provider gets."""
    return InMemorySpanExporter()


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch, uncleaned: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    """What our exporter gets from a replica that starts after this."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    for exporter in (CleanExporter(kept), uncleaned):
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("daemon.replica.tracer", lambda: provider.get_tracer("pixmill"))
    monkeypatch.delenv("OTEL_SEMCONV_STABILITY_OPT_IN", raising=False)
    instrument_http(provider)
    yield kept
    HTTPX2ClientInstrumentor().uninstrument()


@asynccontextmanager
async def replica(redis_server: RedisServer, simulator: Simulator, folder: Path) -> AsyncIterator[None]:
    """A replica with a route of each kind: `default` answers with a picture, `tasks` with a task."""
    tasks = simulator.base_url.removesuffix("/v1")
    settings = Settings.model_validate(
        {
            "metrics": {"listen": "127.0.0.1:0"},
            "redis": {"url": redis_server.url},
            "storage": {"url": folder.as_uri()},
            "network": {"allow_hosts": ["127.0.0.1"]},
            "credentials": {
                "a": {"provider": "openai", "base_url": simulator.base_url, "api_key_env": "SPAN_KEY"},
                "t": {
                    "provider": "hunyuan",
                    "wire": "tokenhub_async",
                    "base_url": tasks,
                    "api_key_env": "SPAN_KEY",
                },
            },
            "quotas": {"a": QUOTA, "t": QUOTA},
            "routes": {
                "default": {"credential": "a", "model": "sim-1", "quotas": ["a"]},
                "tasks": {"credential": "t", "model": "hunyuan-image-3.0", "quotas": ["t"]},
            },
        }
    )
    async with worker(settings, redis_server.url, environ={"SPAN_KEY": KEY}):
        yield


async def ended(redis: Any, uid: str) -> None:
    async def has_ended() -> bool:
        return bool(await redis.hget(f"pixmill:item:{uid}", "state") in (b"succeeded", b"failed"))

    await eventually(has_ended)


async def whole(spans: InMemorySpanExporter, runs: int) -> list[list[ReadableSpan]]:
    """The spans of so many runs, one list each with its root first; a run ends after its item."""

    async def enough() -> bool:
        return sum(span.name.startswith("process ") for span in spans.get_finished_spans()) == runs

    await eventually(enough)
    found = spans.get_finished_spans()
    roots = [span for span in found if span.name.startswith("process ")]
    return [[root, *(each for each in found if each is not root and of(each, root))] for root in roots]


def of(span: Any, root: Any) -> bool:
    return bool(span.context.trace_id == root.context.trace_id)


def lies_within(span: Any, root: Any) -> bool:
    return bool(root.start_time <= span.start_time <= span.end_time <= root.end_time)


def tree(run: list[ReadableSpan]) -> dict[str, set[str]]:
    """The names of the spans by the name of their parent."""
    names = {span.context.span_id: span.name for span in run if span.context is not None}
    found: dict[str, set[str]] = {}
    for span in run:
        above = "" if span.parent is None else names.get(span.parent.span_id, f"{span.parent.span_id:016x}")
        found.setdefault(above, set()).add(span.name)
    return found


def attributes(run: list[ReadableSpan], name: str) -> dict[str, Any]:
    (one,) = [span for span in run if span.name == name]
    return dict(one.attributes or {})


async def test_a_job_goes_on_with_its_producers_trace(
    redis: Any, redis_server: RedisServer, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    job = {"id": "one", "prompt": PROMPT, "seed": 7, "metadata": {"traceparent": "no trace"}}
    async with Simulator() as simulator, replica(redis_server, simulator, tmp_path):
        await redis.xadd("pixmill:jobs", {"data": orjson.dumps(job), "traceparent": TRACEPARENT})
        await ended(redis, "default//one")
        (run,) = await whole(spans, 1)
    process, call = f"process {QUEUE}", "generate_content sim-1"
    assert tree(run) == {
        PRODUCER: {process},
        process: {"permit a", call, "persist", f"settle {QUEUE}"},
        call: {"POST"},
    }
    assert f"{run[0].context.trace_id:032x}" == TRACE
    assert run[0].kind.name == "CONSUMER"
    whole_run = attributes(run, process)
    assert whole_run.pop("messaging.client.id")
    assert whole_run.pop("messaging.message.id")
    assert whole_run == {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": QUEUE,
        "messaging.consumer.group.name": "workers",
        "pixmill.tenant": "default",
        "pixmill.job": "one",
        "pixmill.item": "one",
        "pixmill.attempts": 0,
        "pixmill.deliveries": 1,
        "pixmill.outcome": "succeeded",
    }
    assert attributes(run, call) == {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.output.type": "image",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "sim-1",
        "gen_ai.request.seed": 7,
    }
    assert attributes(run, "POST")["url.full"] == simulator.url
    assert all(lies_within(span, run[0]) for span in run)


async def test_each_item_of_a_batch_has_a_trace_that_links_to_the_batch(
    redis: Any, redis_server: RedisServer, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    items = [{"id": name, "prompt": f"{PROMPT} {name}", "route": "tasks"} for name in "ab"]
    fields = {"type": "pixmill.batch.v1", "data": orjson.dumps({"id": "b1", "items": items})}
    async with Simulator() as simulator, replica(redis_server, simulator, tmp_path):
        await redis.xadd("pixmill:jobs", {**fields, "traceparent": TRACEPARENT})
        await asyncio.gather(*(ended(redis, f"default/b1/{name}") for name in "ab"))
        runs = await whole(spans, 2)
    assert len({run[0].context.trace_id for run in runs if run[0].context is not None}) == 2
    for run in runs:
        assert run[0].parent is None
        ((link,),) = [[link.context for link in run[0].links]]
        assert (f"{link.trace_id:032x}", f"{link.span_id:016x}") == (TRACE, PRODUCER)
        assert attributes(run, "process pixmill:q:tasks")["pixmill.batch"] == "b1"
        call = attributes(run, "generate_content hunyuan-image-3.0")
        job = attributes(run, "process pixmill:q:tasks")["pixmill.item"]
        result = orjson.loads(await redis.hget(f"pixmill:item:default/b1/{job}", "result"))
        assert call["gen_ai.response.id"] == result["provider_task_id"]
        # The submit and each poll.
        assert tree(run)["generate_content hunyuan-image-3.0"] == {"POST"}


async def test_a_failure_leaves_its_kind_and_no_word_of_the_provider(
    redis: Any,
    redis_server: RedisServer,
    spans: InMemorySpanExporter,
    uncleaned: InMemorySpanExporter,
    tmp_path: Path,
) -> None:
    job = {"id": "one", "prompt": PROMPT}
    async with Simulator() as simulator, replica(redis_server, simulator, tmp_path):
        simulator.faults.add(Fault(FaultKind.OVERLOADED, words=f"{PROMPT} {KEY}"))
        await redis.xadd("pixmill:jobs", {"data": orjson.dumps(job)})
        await ended(redis, "default//one")
        run, again = await whole(spans, 2)
    (retrying,) = [
        fields[b"data"]
        for _, fields in await redis.xrange("pixmill:events")
        if fields[b"type"] == b"job.retrying"
    ]
    assert PROMPT in retrying.decode(), "the provider quotes it"
    assert run[0].parent is again[0].parent is None
    assert attributes(run, f"process {QUEUE}")["pixmill.outcome"] == "throttled"
    for name in (f"process {QUEUE}", "generate_content sim-1"):
        assert attributes(run, name)["error.type"] == "overloaded"
    assert run[0].status.status_code.name == "ERROR"
    everything = "".join(span.to_json() for kept in (spans, uncleaned) for span in kept.get_finished_spans())
    assert "planted" not in everything


def test_an_exporter_gets_no_text_from_the_outside() -> None:
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(CleanExporter(kept)))
    tracer = provider.get_tracer("a library")
    planted: dict[str, Any] = {
        "url.full": f"https://me:{KEY}@cdn.example:8443/{KEY}?signature={KEY}",
        "url.path": f"/v1/jobs/{KEY}",
        "http.request.method_original": KEY,
        "url.query": f"key={KEY}",
        "http.target": f"/pictures?key={KEY}",
        "http.request.header.authorization": [f"Bearer {KEY}"],
        "http.response.header.location": [KEY],
        "http.response.status_code": 200,
    }
    with pytest.raises(ValueError, match=KEY), tracer.start_as_current_span("GET", attributes=planted):
        raise ValueError(KEY)
    (span,) = kept.get_finished_spans()
    assert span.status.status_code.name == "ERROR"
    assert span.attributes == {
        "url.full": "https://cdn.example:8443",
        "http.response.status_code": 200,
    }
    assert KEY not in span.to_json()


def test_without_a_tracer_the_steps_stay_as_they_are() -> None:
    async def step(_run: object) -> None: ...

    spans = spans_of(None, "pixmill", "w1")
    for around in (spans.process, spans.permit, spans.generate, spans.persist, spans.settle):
        assert around(step) is step
