"""Errors of this machine: none of them passes for another one."""

from __future__ import annotations

import errno

import pytest

from daemon.gateway.answering.problems import problem_of


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ConnectionResetError(), 503, "redis_unavailable"),
        (TimeoutError(), 503, "redis_unavailable"),
        (OSError(errno.ENOSPC, "planted"), 503, "no_space"),
        (OSError(errno.EDQUOT, "planted"), 503, "no_space"),
        (OSError(errno.EMFILE, "planted"), 500, "internal"),
        (PermissionError(errno.EACCES, "planted"), 500, "internal"),
    ],
)
def test_an_error_of_this_machine_has_its_own_code(error: OSError, status: int, code: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)
    assert "planted" not in problem.detail
