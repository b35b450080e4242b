"""Finds credentials in the entries of producers: by the name of a field, or by the form of a text under any name.

Only unmistakable forms count: a product called `sk-autumn-kettle` is no key. The id of an access key is a
part of every signed address, so it does not count behind a `=`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

Path = tuple[str | int, ...]

_FORMS = (
    r"sk-(?:proj|svcacct|admin|ant|or-v1)-[\w-]{20,}"  # OpenAI, OpenRouter and others
    r"|sk-[A-Za-z0-9]{20,}"
    r"|ms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ModelScope
    r"|AKID[A-Za-z0-9]{20,}"  # Tencent Cloud
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|whsec_[A-Za-z0-9+/=]{24,}"  # Standard Webhooks
    r"|pxm_[\w-]{40,}"  # a key of this gateway
    r"|Bearer\s[\w.~+/-]{20,}"
)
_BEGINNINGS = (b"sk-", b"ms-", b"AKI", b"ASIA", b"whsec_", b"pxm_", b"Bearer")
_IN_TEXT = re.compile(rf"(?<![\w=-])(?:{_FORMS})", re.ASCII)
_IN_BYTES = re.compile(_IN_TEXT.pattern.encode(), re.ASCII)
# The first part ends at its first colon, and no part holds a slash: every byte is read at most twice.
_PASSWORD_IN_URL = re.compile(rb"://[^/\s\"'<>@:]*+:[^/\s\"'<>@]++@")
_SEPARATORS = re.compile(r"^[xX][-_]|[-_\s]")
_SECRET_NAMES = frozenset({"apikey", "secretid", "secretkey", "authorization", "token"})
# Data that is not JSON may be a Python or JavaScript literal, JSON inside of a text, YAML, a form or an environment. A
# bare `token` is also a word of prompts and a parameter of signed URLs: only one with a long value counts.
_SECRET_NAME_IN_TEXT = re.compile(
    rb"""(?ix)
      ["'] (?:x[-_])? (?:api[-_\s]?key | secret[-_\s]?(?:id|key) | authorization | token) \\*["'] \s* [:=]
    | (?<![a-z0-9]) (?:api[-_]?key | secret[-_]?(?:id|key) | authorization) \s* [:=]
    | (?<![\w?&-]) token \s* [:=] \s* \\*["']? [\w.+/=-]{16}
    """
)


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a credential."""
    return len(name) < 40 and _SEPARATORS.sub("", name).casefold() in _SECRET_NAMES


def has_credential(data: bytes) -> bool:
    """Whether a text contains the form of a credential."""
    # Few jobs contain any of these beginnings, and the search for them costs a tenth of the pattern.
    return any(beginning in data for beginning in _BEGINNINGS) and _IN_BYTES.search(data) is not None


def contains_secret(data: bytes) -> bool:
    """Whether unread bytes look as if they carry a credential; such data must not be copied anywhere."""
    # Without zero bytes, UTF-16 reads like plain text.
    data = data.replace(b"\0", b"")
    searches = (_SECRET_NAME_IN_TEXT, _PASSWORD_IN_URL)
    return any(search.search(data) for search in searches) or has_credential(data)


def secret_name_path(
    payload: dict[str, Any], allowed: frozenset[str], max_depth: int
) -> tuple[Path | None, bool]:
    """The path of a field with a secret name, and whether there are levels below `max_depth`, which are not read."""
    too_deep = False
    stack: list[tuple[Any, int, Path]] = [(payload, 1, ())]
    while stack:
        node, depth, path = stack.pop()
        if depth > max_depth:
            too_deep = True
            continue
        is_object = type(node) is dict
        for step, value in node.items() if is_object else enumerate(node):
            if is_object and is_secret_name(step) and step not in allowed:
                return (*path, step), too_deep
            if type(value) in _CONTAINERS:
                stack.append((value, depth + 1, (*path, step)))
    return None, too_deep


def credential_path(payload: Any) -> Path | None:
    """The path of a name or a value in the form of a credential; None if there is none."""
    stack: list[tuple[Any, Path]] = [(payload, ())]
    while stack:
        node, path = stack.pop()
        if isinstance(node, str) and _IN_TEXT.search(node):
            return path
        if isinstance(node, dict):
            for name in node:
                if _IN_TEXT.search(name):
                    return (*path, name)
        if isinstance(node, dict | list):
            steps = node.items() if isinstance(node, dict) else enumerate(node)
            stack.extend((value, (*path, step)) for step, value in steps)
    return None


_CONTAINERS = frozenset({dict, list})
