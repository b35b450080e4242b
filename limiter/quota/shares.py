"""Splits calls among accounts with quotas of their own, as they fall where the earliest slot takes each; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from limiter.quota.quota import Quota


def shares(calls: int, accounts: Sequence[Iterable[Quota]]) -> list[int]:
    """How many of the calls each account makes, nearly: the slower it is alone, the fewer.

    They sum to `calls`. Without a wait an account takes as many as any.
    """
    alone_s = [max((quota.optimum_s(calls, 0) for quota in quotas), default=0.0) for quotas in accounts]
    weights = (
        [1.0 / each for each in alone_s if each] if all(alone_s) else [float(not each) for each in alone_s]
    )
    total, given, found = sum(weights), 0.0, list[int]()
    for weight in weights:
        given += weight
        found.append(round(calls * given / total) - sum(found))
    return found
