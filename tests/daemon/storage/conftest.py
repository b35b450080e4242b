"""No test of storage waits between two tries at a store that fails."""

from __future__ import annotations

import pytest
from tenacity import wait_none


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.storage.object_store.WAIT", wait_none())
