"""Makes the prompt of each row of a file: from the template, or from the row's own field or the batch's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from daemon.files.columns import near_column
from daemon.files.prompt_template import PromptTemplate
from pixmill.contract.jobs import MOST_PROMPT

NO_PROMPT = "-"  # in an item that is refused, so that its other fields can be checked


class RowPrompts:
    """The prompts of one file. `made_bytes` counts those from the template. Raises ValueError for a wrong template."""

    def __init__(self, template: str | None, defaults: Mapping[str, Any]) -> None:
        self._template = None if template is None else PromptTemplate(template)
        self._default = defaults.get("prompt")
        self.names = () if self._template is None else self._template.names
        self.made_bytes = 0

    @property
    def is_template(self) -> bool:
        """Whether a template makes them."""
        return self._template is not None

    def unknown(self, known: Sequence[str]) -> str:
        """A sentence about names of the template that a file does not have; empty where it has all."""
        missing = [name for name in self.names if name not in known]
        if not missing:
            return ""
        there = ", ".join(filter(None, known)) or "nothing"
        sentence = f"the prompt template names {_quoted(missing)}, which is not there; there is: {there}."
        return sentence + near_column(missing[0], known)

    def lacking(self, values: Mapping[str, str], item: Mapping[str, Any]) -> str:
        """The parts of a prompt that a row leaves empty, as the beginning of a sentence."""
        if self._template is not None:
            missing = [name for name in self.names if not values.get(name, "").strip()]
            return f"the prompt template needs {_quoted(missing)}, which is empty here" if missing else ""
        return "`prompt` is missing" if item.get("prompt", self._default) is None else ""

    def put(self, values: Mapping[str, str], item: dict[str, Any]) -> str:
        """Put the template's prompt into an item; returns a sentence if it would be too long."""
        if self._template is None:
            return ""
        if (length := self._template.length(values)) > MOST_PROMPT:
            item["prompt"] = NO_PROMPT
            return f"`prompt` would have {length} characters, and {MOST_PROMPT} are the most."
        item["prompt"] = self._template.fill(values)
        self.made_bytes += len(item["prompt"].encode())
        return ""


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
