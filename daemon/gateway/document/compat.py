"""The shapes of the answers that callers of older systems know."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from daemon.gateway.document.shapes import HERE, Example, Shape

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
