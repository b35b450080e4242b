"""The events that the daemon publishes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from pixmill.contract.event_types import EventType


class Event(BaseModel):
    """One entry of an event stream: `type` decides which fields `data` has."""

    model_config = ConfigDict(frozen=True)

    type: EventType
    data: Annotated[dict[str, Any], Field(description="see the type")]

    def parsed(self) -> BaseModel:
        """The data as the model of its type; raises pydantic.ValidationError when a field is missing."""
        from pixmill.contract.event_data import EVENT_DATA  # many models, which few processes need

        return EVENT_DATA[self.type].model_validate(self.data)
