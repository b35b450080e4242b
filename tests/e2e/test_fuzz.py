"""Half a minute of `make fuzz`: no request finds an answer that the OpenAPI document does not describe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.fuzz import fuzz


@pytest.mark.timeout(240)
def test_half_a_minute_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    found = fuzz(tmp_path, 30)
    assert found.code == 0, found.report
    assert not found.tracebacks, found.log
