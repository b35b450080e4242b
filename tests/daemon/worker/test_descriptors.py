"""A replica runs as many items at once as its process has descriptors for, and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.service import worker
from daemon.settings import SettingsError
from daemon.worker.descriptors import (
    EACH_CALLER,
    EACH_RUN,
    LEAST_CALLERS,
    MOST_CALLERS,
    OTHERS,
    fitting_callers,
    fitting_slots,
)
from tests.daemon.harness import worker_settings
from tests.servers import RedisServer

LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from daemon.worker.descriptors import raise_limit
print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@given(wished=st.integers(1, 100_000), limit=st.integers(OTHERS + EACH_RUN, 1_048_576))
def test_slots_are_the_most_that_fit_and_fewer_have_a_reason(wished: int, limit: int) -> None:
    slots, reason = fitting_slots(wished, limit)
    assert 1 <= slots <= wished
    assert OTHERS + EACH_RUN * slots <= limit
    assert (slots == wished) == (reason is None)
    assert slots == wished or OTHERS + EACH_RUN * (slots + 1) > limit


def test_the_reason_names_setting_limit_and_remedy() -> None:
    _, reason = fitting_slots(300, 256)
    assert reason == (
        "worker.max_in_flight = 300 needs 940 file descriptors, and this process may open 256: 72 jobs run at a time. "
        "Raise the limit, for example with `ulimit -n 940`."
    )


def test_a_process_that_has_room_for_no_job_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"may open 42 file descriptors.*`ulimit -n 1024`"):
        fitting_slots(64, OTHERS + EACH_RUN - 1)


@pytest.mark.parametrize(("soft", "hard", "now"), [(128, 512, 512), (256, 256, 256)])
def test_the_soft_limit_is_raised_to_the_hard_one(soft: int, hard: int, now: int) -> None:
    script = LIMITED.format(soft=soft, hard=hard)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(now)] * 2


async def test_a_replica_starts_with_the_slots_that_fit(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED", "sk-test")
    monkeypatch.setattr("daemon.service.raise_limit", lambda: OTHERS + 5 * EACH_RUN)
    async with worker(worker_settings(redis_server.url, tmp_path), redis_server.url) as running:
        assert running.replica.pool.slots == 5


@given(slots=st.integers(0, 1000), limit=st.integers(64, 1_048_576))
def test_callers_fit_beside_the_slots_of_a_replica(slots: int, limit: int) -> None:
    callers = fitting_callers(limit, slots)
    assert LEAST_CALLERS <= callers <= MOST_CALLERS
    assert callers == LEAST_CALLERS or OTHERS + EACH_RUN * slots + EACH_CALLER * callers <= limit
