"""Options and arguments that take one of a few words, and whose refusal is one plain sentence."""

from __future__ import annotations

from collections.abc import Callable

import typer


def one_of(*words: str) -> Callable[[str], str]:
    """A typer parser: the word as it is, or a usage error that names all of them. typer's own choices are refused
    in pydantic's words ("Value error, ...")."""

    def word(text: str) -> str:
        if text not in words:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(words)}.")
        return text

    return word
