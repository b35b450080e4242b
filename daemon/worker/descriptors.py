"""Fits the worker slots of a replica, and the callers of a gateway, to the descriptors that a process may open.

A shell of macOS gives a process 256 descriptors, most Linux systems 1024, as a soft limit that the process may raise.
"""

from __future__ import annotations

import resource
from typing import Final

from daemon.settings import SettingsError

# A run has a connection to its provider, or one for its picture and a file; idle connections live 2 s longer.
EACH_RUN: Final = 3
# Redis, metrics, log files, callbacks and the event loop.
OTHERS: Final = 40
# A connection of a caller, and one to Redis or a file while it works.
EACH_CALLER: Final = 2
LEAST_CALLERS: Final = 16  # beside a replica that uses all others
MOST_CALLERS: Final = 20_000  # all of them are looked at once a second
# Used where the hard limit is endless; macOS accepts no more than the last one.
HIGHEST: Final = (1_048_576, 65_536, 10_240)


def raise_limit() -> int:
    """Raise this process's soft limit of descriptors to the hard one, and return the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard != resource.RLIM_INFINITY:
        return soft
    for wished in HIGHEST if hard == resource.RLIM_INFINITY else (hard,):
        if soft != resource.RLIM_INFINITY and wished > soft:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))
            except (OSError, ValueError):
                continue
            return wished
    return HIGHEST[0] if soft == resource.RLIM_INFINITY else soft


def fitting_slots(wished: int, limit: int) -> tuple[int, str | None]:
    """The slots out of `wished` for which `limit` descriptors suffice, and the reason if they are fewer.

    Raises SettingsError if none fits.
    """
    slots = min(wished, (limit - OTHERS) // EACH_RUN)
    needed = OTHERS + EACH_RUN * wished
    if slots < 1:
        raise SettingsError(
            [
                f"This process may open {limit} file descriptors, and one job at a time needs {OTHERS + EACH_RUN}: "
                f"raise the limit, for example with `ulimit -n {max(1024, needed)}`."
            ]
        )
    if slots == wished:
        return wished, None
    return slots, (
        f"worker.max_in_flight = {wished} needs {needed} file descriptors, and this process may open {limit}: "
        f"{slots} jobs run at a time. Raise the limit, for example with `ulimit -n {needed}`."
    )


def fitting_callers(limit: int, slots: int = 0) -> int:
    """The connections of callers for which `limit` descriptors suffice, beside `slots` worker slots."""
    fitting = (limit - OTHERS - EACH_RUN * slots) // EACH_CALLER
    return min(MOST_CALLERS, max(LEAST_CALLERS, fitting))
