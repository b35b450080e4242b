"""The spans of a run: process, permit, generate_content, persist, settle.

Each is put around a step when a replica is built. Where nothing records, the steps stay as they are and cost nothing.
Names and attributes follow the conventions of OpenTelemetry for messaging and for generative AI as of 2026; those have
no operation for pictures yet. No prompt and no message of an error is an attribute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import orjson
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, get_current_span, use_span
from opentelemetry.trace import set_span_in_context as within
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from daemon.queue.messages import Claimed
from daemon.queue.outcomes import Outcome
from daemon.telemetry.logs import TRACE_ID
from daemon.worker.run import Run
from pixmill.records.keys import WORKERS_GROUP, Uid
from providers.errors import ProviderError

P = ParamSpec("P")
T = TypeVar("T")
_W3C = TraceContextTextMapPropagator()


class Around(Protocol):
    """Puts a span around a step, and leaves its arguments and its result alone."""

    def __call__(
        self, step: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...


def _nothing(step: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]:
    return step


@dataclass(frozen=True, slots=True)
class Spans:
    """The spans around the steps of a run. By default there are none.

    `process`: around the whole run, with `run` as its first argument. `permit`: around the wait for the right to call
    (run); its span begins with the request for it. `generate`: around the call and the polls of its task (run).
    `persist`: around the check and the store of the picture. `settle`: around the end of the run (item, outcome).
    """

    process: Around = _nothing
    permit: Around = _nothing
    generate: Around = _nothing
    persist: Around = _nothing
    settle: Around = _nothing


NO_SPANS = Spans()


def spans_of(tracer: Tracer | None, prefix: str, worker: str) -> Spans:
    """The spans that a tracer records for one replica; without a tracer none."""
    if tracer is None:
        return NO_SPANS
    spans = _Recorded(tracer, prefix, worker)
    steps = (spans.process, spans.permit, spans.generate, spans.persist, spans.settle)
    return Spans(*(_around(step) for step in steps))


def _around(span: Callable[..., AbstractContextManager[None]]) -> Around:
    def around(step: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, Coroutine[Any, Any, T]]:
        @wraps(step)
        async def traced(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(*args):
                return await step(*args, **kwargs)

        return traced

    return around


class _Trace(NamedTuple):
    """The span `process` of the run under way. The HTTP client may have other spans open within it."""

    span: Span
    queue: str
    message: Mapping[str, str]
    zero_ns: int  # the time of day at which the monotonic clock was 0; measured once, so that no child begins too early


_trace: ContextVar[_Trace] = ContextVar("trace")


class _Recorded:
    def __init__(self, tracer: Tracer, prefix: str, worker: str) -> None:
        self._tracer = tracer
        self._prefix = prefix
        self._worker = worker

    @contextmanager
    def process(self, run: Run) -> Iterator[None]:
        """A job of its own goes on with the trace of its producer.

        An item of a batch has a trace of its own with a link: a thousand items in one trace would help nobody.
        """
        item, uid = run.item, Uid.parse(run.item.uid)
        given = _W3C.extract({"traceparent": item.traceparent})
        producer = get_current_span(given).get_span_context()
        links = [Link(producer)] if uid.batch and producer.is_valid else []
        queue = f"{self._prefix}:q:{run.line or run.route.name}"  # another account may serve it
        message = {
            "messaging.system": "redis",
            "messaging.destination.name": queue,
            "messaging.consumer.group.name": WORKERS_GROUP,
            "messaging.message.id": item.entry,
            "messaging.client.id": self._worker,
        }
        zero_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            f"process {queue}",
            context=Context() if uid.batch else given,
            kind=SpanKind.CONSUMER,
            links=links,
            attributes={**message, **_operation("process"), **_work(item, uid)},
            start_time=_wall_ns(zero_ns, min(filter(None, (run.started_at, run.requested_at)))),
        )
        _trace.set(_Trace(span, queue, message, zero_ns))
        TRACE_ID.set(f"{span.get_span_context().trace_id:032x}")
        with use_span(span, True, record_exception=False, set_status_on_exception=False), _noting(span):
            yield

    @contextmanager
    def permit(self, run: Run, *_: object) -> Iterator[None]:
        if run.permit is None:
            yield
            return
        whole = _trace.get()
        quotas = [quota.name for quota in run.route.quotas]
        span = self._tracer.start_span(
            f"permit {','.join(quotas)}",
            # Its end comes within the span of the HTTP client, right before the first byte.
            context=within(whole.span),
            attributes={"pixmill.quotas": quotas},
            start_time=_wall_ns(whole.zero_ns, run.requested_at) if run.requested_at else None,
        )
        try:
            with _noting(span):
                yield
        finally:
            span.end()

    @contextmanager
    def generate(self, run: Run, *_: object) -> Iterator[None]:
        seed = orjson.loads(run.item.spec).get("seed")
        attributes = {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.output.type": "image",
            "gen_ai.provider.name": run.route.provider.name,
            "gen_ai.request.model": run.route.model,
            **({} if seed is None else {"gen_ai.request.seed": seed}),
        }
        with self._span(f"generate_content {run.route.model}", SpanKind.CLIENT, attributes) as span:
            try:
                yield
            finally:
                if run.submitted is not None:
                    span.set_attribute("gen_ai.response.id", run.submitted.task_id)

    @contextmanager
    def persist(self, *_: object) -> Iterator[None]:
        with self._span("persist", SpanKind.INTERNAL, {}):
            yield

    @contextmanager
    def settle(self, _item: Claimed, outcome: Outcome, *_: object) -> Iterator[None]:
        whole = _trace.get()
        whole.span.set_attribute("pixmill.outcome", outcome.name)
        if kind := getattr(outcome, "error", {}).get("kind"):
            _fail(whole.span, str(kind))
        attributes = {**whole.message, **_operation("settle")}
        with self._span(f"settle {whole.queue}", SpanKind.CLIENT, attributes):
            yield

    @contextmanager
    def _span(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Iterator[Span]:
        opened = self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        )
        with opened as span, _noting(span):
            yield span


def _operation(name: str) -> dict[str, str]:
    return {"messaging.operation.name": name, "messaging.operation.type": name}


def _work(item: Claimed, uid: Uid) -> dict[str, Any]:
    names = {"pixmill.tenant": uid.tenant, "pixmill.job": item.job, "pixmill.item": uid.item}
    counts = {"pixmill.attempts": item.attempts, "pixmill.deliveries": item.deliveries}
    return {**names, **({"pixmill.batch": uid.batch} if uid.batch else {}), **counts}


@contextmanager
def _noting(span: Span) -> Iterator[None]:
    """Note the kind of an error. Its message stays out, since a provider may quote the prompt."""
    try:
        yield
    except BaseException as error:
        _fail(span, error.kind.value if isinstance(error, ProviderError) else type(error).__qualname__)
        raise


def _fail(span: Span, kind: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR))


def _wall_ns(zero_ns: int, monotonic_s: float) -> int:
    """The time of day, in ns, of a monotonic time."""
    return zero_ns + round(monotonic_s * 1e9)
