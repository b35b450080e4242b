"""The shapes of answers about everything but work: the seeds' endpoints, the OpenAI door, dead letters, keys."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from daemon.gateway.document.records import HERE, Example, Shape

_SLIDE = {
    "slide_id": "s1",
    "page_num": 1,
    "title": "Kettles",
    "final_prompt": "flat\n\na kettle",
    "image_url": f"{HERE}/batches/slides-1/items/s1/images/0",
    "status": "success",
    "error_message": None,
    "generation_time": 9.1,
}
_DECK = {
    "batch_id": "slides-1",
    "session_id": "slides-1",
    "status": "completed",
    "total_slides": 1,
    "completed_slides": 1,
    "successful": 1,
    "failed": 0,
    "results": [_SLIDE],
}


class Slide(Shape):
    """One slide and its picture."""

    slide_id: str
    page_num: int | None
    title: str | None
    image_url: str | None
    final_prompt: str | None
    status: Literal["success", "failed", "pending", "processing"]
    error_message: str | None
    generation_time: float | None


class _Deck(Shape):
    batch_id: str
    session_id: str
    status: str
    total_slides: int
    completed_slides: int
    successful: int
    failed: int
    results: list[Slide]


class Deck(_Deck):
    """A deck. `status` is running in a 202."""

    total_time: float
    estimated_remaining_time: float | None = None
    example: ClassVar[Example] = {**_DECK, "total_time": 9.5}


class DeckStatus(_Deck):
    """How far a deck is."""

    progress: float = Field(ge=0, le=1)
    estimated_remaining_time: float | None
    example: ClassVar[Example] = {**_DECK, "progress": 1.0, "estimated_remaining_time": 0.0}


class ActiveDecks(Shape):
    """Batches under way."""

    active_batches: int
    example: ClassVar[Example] = {"active_batches": 2}


class StudioJob(Shape):
    """A studio payload is recorded as a batch."""

    job_id: str
    total_pictures: int
    warnings: list[str]
    status: str
    urls: dict[str, str]
    example: ClassVar[Example] = {
        "job_id": "job-1",
        "total_pictures": 5,
        "warnings": ["`api_key` is dropped."],
        "status": "running",
        "urls": {"self": f"{HERE}/batches/job-1"},
    }


class Picture(Shape):
    """A picture in OpenAI's form."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class Pictures(Shape):
    """Pictures in OpenAI's form."""

    created: int
    data: list[Picture]
    example: ClassVar[Example] = {"created": 1896080400, "data": [{"b64_json": "iVBORw0KGgo="}]}


class Task(Shape):
    """A task to poll; `result` and `image_url` are there once it is completed, `error` if it failed."""

    id: str
    task_id: str
    object: Literal["image.generation.task"]
    status: Literal["processing", "completed", "failed"]
    created_at: int
    expires_at: int
    completed_at: int | None = None
    http_status: int | None = None
    image_url: str | None = None
    poll_url: str | None = None
    result: Pictures | None = None
    error: dict[str, Any] | None = None
    example: ClassVar[Example] = {
        "id": "img-1",
        "task_id": "img-1",
        "object": "image.generation.task",
        "status": "processing",
        "created_at": 1896080400,
        "expires_at": 1896166800,
        "poll_url": f"{HERE}/images/tasks/img-1",
    }


class OpenAiError(Shape):
    """A refusal or a failure in OpenAI's form."""

    error: OpenAiErrorBody
    example: ClassVar[Example] = {
        "error": {
            "message": "Unknown parameter: 'promt'.",
            "type": "invalid_request_error",
            "param": "promt",
            "code": "unknown_parameter",
        }
    }


class OpenAiErrorBody(Shape):
    """The form that OpenAI's clients read."""

    message: str
    type: str
    param: str | None
    code: str | None


class StoredInput(Shape):
    """A picture that is kept; `object` is its name for `inputs[].object`."""

    object: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    width: int
    height: int
    example: ClassVar[Example] = {
        "object": f"default/inputs/{'0' * 64}",
        "sha256": "0" * 64,
        "width": 1024,
        "height": 1024,
    }


class DeadLetterList(Shape):
    """Dead letters, newest first."""

    dead: list[dict[str, Any]]
    example: ClassVar[Example] = {
        "dead": [
            {
                "id": "1896080400000-0",
                "reason": "invalid",
                "field": "size",
                "tenant": "default",
                "job": "kettle-1",
                "batch": None,
                "original": {"data": "{}"},
            }
        ]
    }


class DeadLetterRetried(Shape):
    """The work behind a dead letter is tried again."""

    id: str
    result: str
    example: ClassVar[Example] = {"id": "1896080400000-0", "result": "retried"}


class Me(Shape):
    """The caller. A tenant of null may name any tenant."""

    name: str
    tenant: str | None
    scopes: list[Literal["read", "submit", "admin"]]
    example: ClassVar[Example] = {"name": "shop", "tenant": "shop", "scopes": ["read", "submit"]}


class JsonSchema(Shape):
    """A JSON Schema (2020-12)."""

    example: ClassVar[Example] = {"type": "object"}
