"""The requests and answers of each address, a line of a table for each; a test compares them with the app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from daemon.gateway.document import batches, compat, fleet, jobs, openai, others
from daemon.gateway.document import bodies as b
from daemon.gateway.document import parameters as p
from daemon.gateway.document.codes import (
    ACCEPTS,
    ANY,
    BODY,
    FINDS,
    STORE,
    TENANT,
    UPLOADS,
    WRITES,
    Codes,
)
from daemon.gateway.document.shapes import Shape

# A shape, or the media types of what is no JSON; None: an answer without a body.
Answer = type[Shape] | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Operation:
    """An address with a method. `id` is stable: generated clients name their functions after it."""

    id: str
    answers: Mapping[int, Answer]
    codes: Sequence[Codes] = ()
    body: Mapping[str, Any] | None = None
    parameters: Sequence[Mapping[str, Any]] = ()
    openai: bool = False  # whether its refusals have OpenAI's form
    needs_key: bool = True

    @property
    def all_codes(self) -> Sequence[Codes]:
        """Its own codes, and those of the edge."""
        return (ANY if self.needs_key else _OPEN, *self.codes)


_OPEN: Final[Codes] = {403: ("cross_site",), **{status: ANY[status] for status in (421, 500)}}
_PICTURES: Final = (
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/gif",
    "image/avif",
    "application/octet-stream",
)
_READ: Final = (TENANT, FINDS)
_ORDER: Final = (TENANT, FINDS, WRITES)
_SELECT: Final = (*_ORDER, BODY, {422: ("secret_in_payload",)})
_CHANGES: Final = (*_ORDER, {409: ("not_ended", "already_ended", "already_succeeded")})
_SENT: Final = (TENANT, WRITES, BODY, ACCEPTS)
_ADMIN: Final = (WRITES, {404: ("not_found",)})
_PAUSES: Final = (*_ADMIN, BODY)
_OPENAI: Final = (
    *(_SENT),
    {402: (), 404: ("model_not_found",), 502: (), 504: ("still_running",)},
    STORE,
    UPLOADS,
)


def _picture(name: str) -> Operation:
    answers: dict[int, Answer] = {200: _PICTURES, 302: None, 304: None}
    codes = (*_READ, STORE, UPLOADS, {404: ("picture_gone",)})
    return Operation(name, answers, codes, parameters=(p.IF_NONE_MATCH,))


def _retry(name: str) -> Operation:
    return Operation(name, {202: jobs.Ordered}, _CHANGES, parameters=(p.KEY_OF_RETRY,))


def _stream(name: str, codes: Sequence[Codes]) -> Operation:
    return Operation(
        name, {200: ("text/event-stream",)}, (*codes, {400: ("bad_parameter",), 503: ("stopping",)})
    )


def _images(name: str, body: Mapping[str, Any]) -> Operation:
    answers: dict[int, Answer] = {200: openai.Pictures, 202: openai.Task}
    return Operation(name, answers, _OPENAI, body, (p.LATER, p.KEY), openai=True)


OPERATIONS: Final[Mapping[str, Operation]] = {
    "POST /v1/jobs": Operation(
        "submit_job", {200: jobs.JobRecord, 202: jobs.AcceptedJob}, _SENT, b.JOB, (p.PREFER, p.KEY)
    ),
    "GET /v1/jobs/{ident}": Operation("read_job", {200: jobs.JobRecord}, _READ),
    "DELETE /v1/jobs/{ident}": Operation("delete_job", {204: None}, (*_CHANGES, STORE)),
    "POST /v1/jobs/{ident}/cancel": Operation("cancel_job", {202: jobs.Ordered}, _CHANGES),
    "POST /v1/jobs/{ident}/retry": _retry("retry_job"),
    "GET /v1/jobs/{ident}/explain": Operation("explain_job", {200: jobs.Explained}, _READ),
    "GET /v1/jobs/{ident}/images/{k}": _picture("read_picture_of_job"),
    "POST /v1/batches": Operation(
        "submit_batch",
        {200: batches.DryRun, 202: batches.AcceptedBatch},
        (*_SENT, UPLOADS),
        b.BATCH,
        (p.KEY, *p.OF_CSV),
    ),
    "GET /v1/batches": Operation("list_batches", {200: batches.BatchPage}, _READ),
    "GET /v1/batches/{ident}": Operation("read_batch", {200: batches.BatchRecord}, _READ),
    "DELETE /v1/batches/{ident}": Operation("delete_batch", {204: None}, (*_CHANGES, STORE)),
    "GET /v1/batches/{ident}/log": Operation("read_batch_log", {200: batches.BatchLog}, _READ),
    "GET /v1/batches/{ident}/explain": Operation("explain_batch", {200: jobs.Explained}, _READ),
    "GET /v1/batches/{ident}/items": Operation("list_items", {200: batches.ItemPage}, _READ),
    "GET /v1/batches/{ident}/archive.zip": Operation(
        "read_archive", {200: ("application/zip",)}, (*_READ, STORE)
    ),
    "POST /v1/batches/{ident}/cancel": Operation("cancel_batch", {202: batches.Affected}, _SELECT, b.CANCEL),
    "POST /v1/batches/{ident}/retry": Operation(
        "retry_batch",
        {202: batches.Affected},
        (*_SELECT, {409: ("id_conflict",)}),
        b.RETRY,
        (p.KEY_OF_RETRY,),
    ),
    "POST /v1/batches/{ident}/pause": Operation(
        "pause_batch", {202: batches.Affected}, (*_SELECT, {409: ("already_ended",)}), b.PAUSE
    ),
    "POST /v1/batches/{ident}/resume": Operation("resume_batch", {202: batches.Affected}, _SELECT, b.NOTHING),
    "GET /v1/batches/{batch}/items/{ident}": Operation("read_item", {200: jobs.JobRecord}, _READ),
    "POST /v1/batches/{batch}/items/{ident}/cancel": Operation("cancel_item", {202: jobs.Ordered}, _CHANGES),
    "POST /v1/batches/{batch}/items/{ident}/retry": _retry("retry_item"),
    "GET /v1/batches/{batch}/items/{ident}/explain": Operation("explain_item", {200: jobs.Explained}, _READ),
    "GET /v1/batches/{batch}/items/{ident}/images/{k}": _picture("read_picture_of_item"),
    "GET /v1/events": _stream("follow_tenant", (TENANT,)),
    "GET /v1/jobs/{ident}/events": _stream("follow_job", _READ),
    "GET /v1/batches/{ident}/events": _stream("follow_batch", _READ),
    "GET /v1/batches/{batch}/items/{ident}/events": _stream("follow_item", _READ),
    "POST /v1/inputs": Operation(
        "upload_input", {201: others.StoredInput}, (TENANT, WRITES, BODY, STORE, UPLOADS), b.INPUT
    ),
    "GET /v1/quotas": Operation("list_quotas", {200: fleet.QuotaList}),
    "POST /v1/quotas/{name}/pause": Operation("pause_quota", {202: fleet.QuotaPaused}, _PAUSES, b.PAUSE_FOR),
    "POST /v1/quotas/{name}/resume": Operation("resume_quota", {202: fleet.QuotaResumed}, _ADMIN),
    "GET /v1/routes": Operation("list_routes", {200: fleet.RouteList}),
    "POST /v1/routes/{name}/pause": Operation("pause_route", {202: fleet.Paused}, _PAUSES, b.PAUSE_FOR),
    "POST /v1/routes/{name}/resume": Operation("resume_route", {202: fleet.Resumed}, _ADMIN),
    "POST /v1/pause": Operation("pause_fleet", {202: fleet.Paused}, _PAUSES, b.PAUSE_FOR),
    "POST /v1/resume": Operation("resume_fleet", {202: fleet.Resumed}, (WRITES,)),
    "GET /v1/dead": Operation("list_dead_letters", {200: others.DeadLetterList}, (TENANT,)),
    "POST /v1/dead/{ident}/retry": Operation(
        "retry_dead_letter",
        {202: others.DeadLetterRetried},
        (*_ADMIN, {409: ("gone", "not_kept", "ended", "no_record", "not_failed")}),
    ),
    "GET /v1/usage": Operation("read_usage", {200: fleet.UsageList}, (TENANT,)),
    "GET /v1/status": Operation("read_status", {200: fleet.Status}, (TENANT,)),
    "GET /v1/me": Operation("read_me", {200: others.Me}),
    "GET /v1/schema/{name}": Operation("read_schema", {200: others.JsonSchema}, ({404: ("not_found",)},)),
    "POST /v1/session": Operation(
        "begin_session",
        {204: None},
        (WRITES, {401: ("unauthorized",)}, BODY),
        b.SESSION,
        needs_key=False,
    ),
    "DELETE /v1/session": Operation("end_session", {204: None}, (WRITES,), needs_key=False),
    "GET /v1/models": Operation("list_models", {200: openai.ModelList}, openai=True),
    "GET /v1/models/{ident}": Operation(
        "read_model", {200: openai.RouteAsModel}, ({404: ("model_not_found",)},), openai=True
    ),
    "POST /v1/images/generations": _images("generate_images", b.GENERATION),
    "POST /v1/images/edits": _images("edit_images", b.EDIT),
    "POST /v1/images/generations/async": Operation(
        "begin_images", {202: openai.Task}, _OPENAI, b.GENERATION, (p.KEY,), openai=True
    ),
    "POST /v1/images/edits/async": Operation(
        "begin_edit", {202: openai.Task}, _OPENAI, b.EDIT, (p.KEY,), openai=True
    ),
    "GET /v1/images/tasks/{ident}": Operation("read_task", {200: openai.Task}, (FINDS, STORE), openai=True),
    "POST /api/slide/batch/generate": Operation(
        "generate_slides", {200: compat.Deck, 202: compat.Deck}, _SENT, b.SLIDES, (p.LATER, p.KEY)
    ),
    "POST /api/slide/batch/status": Operation(
        "read_slides", {200: compat.DeckStatus}, (WRITES, BODY, FINDS), b.DECK_STATUS
    ),
    "GET /api/slide/batch/active-count": Operation("count_slides", {200: compat.ActiveDecks}),
    "POST /api/image-studio/jobs": Operation(
        "submit_studio_job", {202: compat.StudioJob}, _SENT, b.STUDIO, (p.KEY,)
    ),
}
