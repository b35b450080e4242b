"""The shapes of answers to clients of OpenAI."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from daemon.gateway.document.shapes import HERE, Example, Shape


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


class ModelList(Shape):
    """Models in OpenAI's form: the names that `model` may have."""

    object: Literal["list"]
    data: list[RouteAsModel]
    example: ClassVar[Example] = {
        "object": "list",
        "data": [{"id": "default", "object": "model", "created": 0, "owned_by": "openai"}],
    }


class RouteAsModel(Shape):
    """A route, or the model of one, in the form of a model."""

    id: str = Field(description="the name of the route or of its model, for `model`")
    object: Literal["model"]
    created: int = Field(description="always 0: a route has no date")
    owned_by: str = Field(description="the route's provider")
    example: ClassVar[Example] = {"id": "default", "object": "model", "created": 0, "owned_by": "openai"}


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
