"""Turns what callers write into the items and the head of a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pixmill.errors import RejectedError

_OF_THE_BATCH = ("max_in_flight", "callback", "metadata")
_OWN_NAMES = {"guidance_scale": "guidance"}
_JOB_FIELDS = ("negative_prompt", "size", "route", "model")


def head_of(ident: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The head of a batch; fields of jobs become its defaults."""
    own = {name: value for name, value in defaults.items() if name in _OF_THE_BATCH}
    jobs = {name: value for name, value in defaults.items() if name not in _OF_THE_BATCH}
    return {"id": ident, "defaults": jobs, **own}


def batch_items(
    prompts: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
    count: int | None = None,
    options: Mapping[str, Any] | None = None,
    delay_s: float = 0.0,
) -> list[dict[str, Any]]:
    """The items of a batch: one prompt `count` times, or each prompt; an id is `item-0001` unless it is given.

    A mapping is one item. Raises RejectedError for a whole batch in its place, and for options that contradict.
    """
    if isinstance(prompts, Mapping) and "items" in prompts:
        raise RejectedError(
            "A batch is given by its items, and this is an object around them.", "invalid", "items"
        )
    given: list[str | Mapping[str, Any]] = [prompts] if isinstance(prompts, str | Mapping) else list(prompts)
    each = [dict(prompt) if isinstance(prompt, Mapping) else {"prompt": prompt} for prompt in given]
    repeated = [dict(item) for item in each for _ in range(1 if count is None else count)]
    began = datetime.now(UTC)
    return [
        {
            "id": f"item-{number + 1:04d}",
            **_fields_of(options or {}, number),
            **({"not_before": _text(began, number * delay_s)} if delay_s > 0 and number else {}),
            **item,
        }
        for number, item in enumerate(repeated)
    ]


def _text(began: datetime, later_s: float) -> str:
    return (began + timedelta(seconds=later_s)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields_of(options: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The job fields of picture `number`, from options as older clients name them."""
    left = {name: value for name, value in options.items() if value is not None}
    fields: dict[str, Any] = {name: left.pop(name) for name in _JOB_FIELDS if name in left}
    width, height, seed = (left.pop(name, None) for name in ("width", "height", "seed"))
    if (width is None) != (height is None):
        raise RejectedError("`width` and `height` are given together, or neither is.", "invalid", "options")
    if width is not None:
        fields["size"] = f"{width}x{height}"
    if seed is not None:  # 0 is a seed
        fields["seed"] = seed + number
    if left:
        fields["params"] = {_OWN_NAMES.get(name, name): value for name, value in left.items()}
    return fields
