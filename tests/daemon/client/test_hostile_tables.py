"""Bodies that would fill the memory, or take hours, are refused before they can."""

from __future__ import annotations

import pytest

from daemon.client.sending import batch_parts
from daemon.contract import Rejection
from daemon.contract.batches import TakenIds


def test_no_names_are_made_for_a_job_of_a_billion_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[int] = []
    monkeypatch.setattr(TakenIds, "add", lambda _, ident, n, place: named.append(n))
    items = [{"id": "a", "prompt": "x", "n": 1_000_000_000}, {"id": "b", "prompt": "x", "n": -1}]
    with pytest.raises(Rejection) as caught:
        batch_parts({"id": "b"}, items)
    assert caught.value.field == "items.0.n"
    assert named == []
