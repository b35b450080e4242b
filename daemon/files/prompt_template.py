"""A prompt with the names of columns in braces."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PART = re.compile(r"\{\{|\}\}|\{[^{}]+\}|[{}]|[^{}]+")


class PromptTemplate:
    """A prompt with `{column}` in it; `{{` and `}}` are braces. Any name may stand there, as in `{Meta: color}`.

    Raises ValueError for a brace alone.
    """

    def __init__(self, text: str) -> None:
        self._parts: list[tuple[str, str | None]] = []  # a literal, or a name
        for part in _PART.findall(text):
            if part in ("{", "}"):
                raise ValueError(
                    f"the prompt template has a single `{part}`: write a column as in {{title}}, and {part * 2} for a "
                    "brace."
                )
            is_name = len(part) > 2 and part.startswith("{") and part != "{{"
            literal = part[0] if part in ("{{", "}}") else part
            self._parts.append(("", part[1:-1].strip()) if is_name else (literal, None))
        self.names = tuple(dict.fromkeys(name for _, name in self._parts if name is not None))

    def length(self, values: Mapping[str, str]) -> int:
        """The characters of the prompt that `fill` would make: a column may stand in it many times."""
        return sum(len(literal) if name is None else len(values[name]) for literal, name in self._parts)

    def fill(self, values: Mapping[str, str]) -> str:
        """The prompt with the values of one row in its places."""
        return "".join(literal if name is None else values[name] for literal, name in self._parts)
