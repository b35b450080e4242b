"""Checks each item of a file as intake would, with a sentence for every problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pixmill.contract import BATCH_TYPE, Rejection, parse_payload
from pixmill.contract.explain import unknown_item_field
from pixmill.contract.jobs import FIT_TOGETHER


class ItemCheck:
    """The check of the items of one batch; `defaults` are the fields that they share."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        self._beside = _beside_items(defaults)

    def refusals(self, item: Mapping[str, Any]) -> tuple[list[str], str]:
        """A sentence for each problem that intake would find, and the code of its refusal."""
        rejection = self._refusal(item)
        if rejection is None:
            return [], "invalid"
        unknown = {name: text for name in item if (text := unknown_item_field(name))}
        if not unknown or rejection.code != "invalid":
            return list(rejection.sentences), rejection.code
        # The contract looks no further than the first unknown field.
        rest = self._refusal({name: value for name, value in item.items() if name not in unknown})
        return [*unknown.values(), *(rest.sentences if rest is not None else ())], "invalid"

    def _refusal(self, item: Mapping[str, Any]) -> Rejection | None:
        try:
            _check(self._beside, item)
        except Rejection as rejection:
            rejection.sentences = tuple(
                text.replace("`items.0.", "`").replace("`items.0`", "the line")
                for text in rejection.sentences
            )
            return rejection
        return None


def _beside_items(defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """The defaults as a check of an item needs them. They may be long, so right ones are checked once and not again."""
    try:
        _check(defaults, {"id": "head", "prompt": "-"})
    except Rejection:
        return defaults
    needed = {name: defaults[name] for name in FIT_TOGETHER if name in defaults}
    return needed if defaults.get("prompt") is None else {**needed, "prompt": "-"}


def _check(defaults: Mapping[str, Any], item: Mapping[str, Any]) -> None:
    batch = {"id": "batch", "defaults": dict(defaults), "items": [item]}
    parse_payload(orjson.dumps(batch), BATCH_TYPE)
