"""The shapes of the other answers: inputs, dead letters, the caller, schemas."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from daemon.gateway.document.shapes import Example, Shape


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
