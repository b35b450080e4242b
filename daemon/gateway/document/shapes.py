"""The base of all shapes. They document: answers are made elsewhere, and tests compare the two."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Example = dict[str, Any]
HERE = "http://localhost:8080/v1"
TIME = "2030-01-31T09:00:00.000Z"


class Shape(BaseModel):
    """The base of all shapes: fields may be added to answers, so readers ignore those that they do not know."""

    model_config = ConfigDict(extra="allow")
    example: ClassVar[Example] = {}


class Outlook(Shape):
    """The work that comes before some other; null: unknown, or nothing."""

    position: int | None = Field(None, ge=0, description="items that come before it")
    eta_seconds: float | None = Field(ge=0, description="until its end")
    bound: str | None = Field(description="what holds it back, such as quota:openai-main.images")
    next_slot_at: AwareDatetime | None = None
