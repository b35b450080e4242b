"""Turns the problems of validation into one sentence for the producer: the first one, and the number of the others."""

from __future__ import annotations

from itertools import islice
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pixmill.contract.batches import Batch, BatchItem, Cancel
from pixmill.contract.fields import Model
from pixmill.contract.jobs import Callback, Input, Job, JobDefaults, Output
from pixmill.contract.rejection import Rejection, shown, shown_path
from pixmill.text import nearest as nearest_name

_MODELS: tuple[type[Model], ...] = (Job, Batch, Input, Output, Callback, Cancel)

MOST_SENTENCES = 20  # of one payload; a batch may have a thousand problems

# Words that other image APIs and older payloads use for the same thing.
_SYNONYMS = {
    "aspect_ratio": "size",
    "resolution": "size",
    "width": "size",
    "height": "size",
    "count": "n",
    "num_images": "n",
    "negativeprompt": "negative_prompt",
    "image": "inputs",
    "image_url": "inputs",
    "images": "inputs",
    "webhook": "callback",
    "callback_url": "callback",
    "user_id": "tenant",
    "job_id": "id",
    "batch_id": "id",
    "model": "route",
    "provider": "route",
    "output_format": "output",
    "retries": "max_attempts",
}


def refused(error: ValidationError, model: type[BaseModel]) -> Rejection:
    """The refusal of data that `model` did not accept: a sentence for the first problem, and its field."""
    problems = error.errors(include_url=False)
    if secret := next((other for other in problems if other["type"] == "secret_value"), None):
        at = shown_path(_field_loc(secret["loc"]))
        message = f"`{at}` is a secret itself; give its configured name."
        return Rejection("secret_in_payload", message, field=at)
    by_place: dict[tuple[str | int, ...], ErrorDetails] = {}
    for other in problems:
        by_place.setdefault(_field_loc(other["loc"]), other)
    every = [_sentence(other, model) for other in islice(by_place.values(), MOST_SENTENCES)]
    sentence, path = every[0]
    if more := len(by_place) - 1:
        sentence += f" ({more} more {'problem' if more == 1 else 'problems'} in the same payload.)"
    return Rejection("invalid", sentence, field=path, sentences=tuple(text for text, _ in every))


def synonym(name: str) -> str | None:
    """The job field for which other image APIs and older payloads use this name, or None."""
    return _SYNONYMS.get(name.lower())


def unknown_item_field(name: str) -> str | None:
    """The sentence for a name that is no field of a batch's item; None for a known name."""
    if name in BatchItem.model_fields or name.startswith("x_"):
        return None
    return _unknown(name, BatchItem, ())[0]


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that was probably meant, or None."""
    lowered = name.lower().replace("-", "_")
    if lowered in known:
        return lowered
    if (same := synonym(lowered)) in known:
        return same
    return nearest_name(lowered, known, cutoff=0.75)


def _sentence(problem: ErrorDetails, model: type[BaseModel]) -> tuple[str, str | None]:
    kind, context = problem["type"], problem.get("ctx") or {}
    loc = _field_loc(problem["loc"])
    if kind == "unknown_field":
        return _unknown(context["name"], context["model"], loc)
    if kind == "sentence":
        loc = (*loc, *context["path"])
        path = shown_path(loc) or None
        return context["sentence"].replace("{field}", path or "the payload"), path
    path = shown_path(loc) or None
    allowed = _allowed(loc, model)
    if kind == "missing":
        return f"`{path}` is missing: it must be {allowed}.", path
    return f"`{path or 'data'}` must be {allowed}, not {_given(problem['input'], kind)}.", path


def _unknown(name: str, model: type[Model], loc: tuple[str | int, ...]) -> tuple[str, str]:
    known = sorted(model.model_fields)
    path = shown_path((*loc, name))
    if model in (BatchItem, JobDefaults) and name == "tenant":
        return f"`{path}` is not a field here: `tenant` belongs to the batch, for all of its items.", path
    if name in ("type", "specversion", "source", "time", "traceparent") and not loc:
        return f"`{path}` is not a field of the data: it is a field of the stream entry, beside `data`.", path
    guess = nearest(name, known)
    if guess:
        return f"`{path}` is not a known field; did you mean `{guess}`?", path
    return f"`{path}` is not a known field; own fields begin with `x_`; known are {', '.join(known)}.", path


def _field_loc(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    # Pydantic adds steps of its own for unions and for keys of dictionaries; producers did not write those.
    return tuple(step for step in loc if step not in _OWN_STEPS)


_OWN_STEPS = {"str", "int", "float", "bool", "[key]"}


def _allowed(loc: tuple[str | int, ...], model: type[BaseModel]) -> str:
    """The description of the innermost field of the path that has one."""
    names = [step for step in loc if isinstance(step, str)]
    for name in reversed(names):
        own = (model,) if name == names[0] else ()
        texts = (
            each.model_fields[name].description for each in (*own, *_MODELS) if name in each.model_fields
        )
        if text := next(filter(None, texts), None):
            return text if name == loc[-1] else f"as `{name}` allows ({text})"
    return "as the schema says" if loc else "an object"


def _given(value: Any, kind: str) -> str:
    if kind == "string_too_short" and value == "":
        return "empty"
    if kind in ("string_too_long", "too_long", "too_short") and hasattr(value, "__len__"):
        return f"{len(value)} {'characters' if isinstance(value, str) else 'entries'}"
    return shown(value)
