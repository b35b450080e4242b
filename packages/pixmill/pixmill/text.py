"""Text of others, made fit to be shown: a terminal must not obey it, and nothing in it may be invisible."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

# Control characters (a terminal obeys ESC, CSI and OSC), the marks and overrides of bidirectional text, separators of
# lines, surrogates, and characters without a shape. The joiners of Persian and of emoji are left.
_OBEYED = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def visible(text: str, *, lines: bool = False) -> str:
    """`text` with an escape such as `\\x1b` in place of each character that a terminal obeys or does not show.

    With `lines`, tabs and line breaks stay as they are.
    """
    if text.isprintable():
        return text
    return _OBEYED.sub(lambda found: _escape(found[0], lines=lines), text)


def visible_json(document: str) -> str:
    """JSON that means the same, with such characters escaped in its texts."""
    return _OBEYED.sub(lambda found: json.dumps(found[0])[1:-1], document)


def shortened(text: str, limit: int) -> str:
    """`text` in at most `limit` characters; `…` stands for the rest."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def nearest(given: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that was probably meant. `cutoff` is the least likeness, from 0 (any name) to 1 (the same)."""
    # Long texts are no slips of a name, and their comparison takes long.
    close = difflib.get_close_matches(given[:_NAME_CHARS], list(known), n=1, cutoff=cutoff)
    return close[0] if close else None


_NAME_CHARS = 64


def _escape(char: str, *, lines: bool) -> str:
    return char if lines and char in "\n\t" else char.encode("unicode_escape").decode()
