"""No test of storage waits between two tries at a store that fails."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.storage.object_store.FIRST_WAIT_S", 0.0)
