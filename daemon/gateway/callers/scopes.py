"""The rights of a key: `read`; `submit`, which also cancels, retries and pauses own batches; `admin`, all of it."""

from __future__ import annotations

from typing import Literal, get_args

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
