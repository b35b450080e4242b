"""New ids of work."""

from __future__ import annotations

import secrets


def new_id(kind: str) -> str:
    """An id that no work has yet, such as `job-5f1c0a9be2d4`."""
    return f"{kind}-{secrets.token_hex(6)}"
