"""What has the form of a credential, whatever the field is called in which it stands.

Only forms that nothing else has: a product called `sk-autumn-kettle` is no key. An id of an access key is a part of
every signed address, so behind a `=` it does not count.
"""

from __future__ import annotations

import re
from typing import Any

_FORMS = (
    r"sk-(?:proj|svcacct|admin|ant|or-v1)-[\w-]{20,}"  # OpenAI, OpenRouter and others
    r"|sk-[A-Za-z0-9]{20,}"
    r"|ms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ModelScope
    r"|AKID[A-Za-z0-9]{20,}"  # Tencent Cloud
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|whsec_[A-Za-z0-9+/=]{24,}"  # Standard Webhooks
    r"|Bearer\s[\w.~+/-]{20,}"
)
_IN_TEXT = re.compile(rf"(?<![\w=-])(?:{_FORMS})", re.ASCII)
_IN_BYTES = re.compile(_IN_TEXT.pattern.encode(), re.ASCII)
_PASSWORD_IN_URL = re.compile(rb"://[^/\s\"'<>@]*:[^/\s\"'<>@]+@")


def has_credential(data: bytes) -> bool:
    """Whether a text has something in the form of a credential."""
    # Nearly no job has any of these beginnings, and looking for them costs a tenth of the pattern.
    begins = b"sk-" in data or b"ms-" in data or b"AKI" in data or b"ASIA" in data
    begins = begins or b"whsec_" in data or b"Bearer" in data
    return begins and _IN_BYTES.search(data) is not None


def has_password_in_url(data: bytes) -> bool:
    """Whether a text has an address with a password."""
    return _PASSWORD_IN_URL.search(data) is not None


def credential_path(payload: Any) -> tuple[str | int, ...] | None:
    """Where in a payload such a text stands, as a value or as a name; None where there is none."""
    stack: list[tuple[Any, tuple[str | int, ...]]] = [(payload, ())]
    while stack:
        node, path = stack.pop()
        if isinstance(node, dict):
            for name in node:
                if _IN_TEXT.search(name):
                    return (*path, name)
            stack.extend((value, (*path, name)) for name, value in node.items())
        elif isinstance(node, list):
            stack.extend((value, (*path, index)) for index, value in enumerate(node))
        elif isinstance(node, str) and _IN_TEXT.search(node):
            return path
    return None
