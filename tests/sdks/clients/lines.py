"""The way of a call into an SDK's interpreter and out of it: one line of JSON each.

What the SDK prints itself goes to stderr, so that nothing stands between the lines.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any


def serve(call: Callable[..., Mapping[str, Any]], told: Callable[[Exception], Mapping[str, Any]]) -> None:
    """Answer each line with what `call` returns for its fields, or with the exception that it raised.

    `told` gives what the SDK's exception says of itself, beside its classes and its text.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        try:
            answer = {"ok": True, **call(**json.loads(line))}
        except Exception as error:
            classes = [cls.__name__ for cls in type(error).__mro__]
            answer = {"ok": False, "error": classes[0], "classes": classes, "text": str(error), **told(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
