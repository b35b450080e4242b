"""Finds quotas that are right in form and probably wrong for their account.

Each is a sentence with its remedy and no fault: a configuration does not show what an account really allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from daemon.settings.accounts import unshared_accounts
from daemon.settings.model import Route, Settings
from limiter.explain import period_text
from limiter.quota.presets import PRESETS
from limiter.quota.quota import Bucket, FixedWindow, InFlight, Quota, Window

# The preset with a provider's own limit on calls in flight, by provider and wire; None is its default wire.
_PUBLISHED: Mapping[tuple[str, str | None], str] = {
    ("hunyuan", None): "tencent-hunyuan",
    ("hunyuan", "tc3"): "tencent-hunyuan",
}


def quota_doubts(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each burst that breaks a window, each route with more calls in flight than its provider allows
    by default, and each account whose routes share no quota.

    `environ` holds the secrets. Two credentials with one secret are one account, also under two names. Raises
    SettingsError for a quota that cannot be read.
    """
    quotas = settings.parsed_quotas()
    for quota in quotas.values():
        yield from _bursts(quota)
    for name, route in settings.calling_routes.items():
        yield from _in_flight(name, route, settings, quotas)
    yield from unshared_accounts(settings, environ)


def _bursts(quota: Quota) -> Iterator[str]:
    for bucket in quota.limits:
        if not isinstance(bucket, Bucket):
            continue
        at = f"quotas.{quota.name}.{bucket.unit}"
        beside = [each for each in quota.limits if isinstance(each, Window | FixedWindow)]
        windows = [each for each in beside if each.unit == bucket.unit]
        for window in windows:
            if bucket.burst > window.count:
                yield (
                    f"{at}: the burst of {bucket.burst} never fits the window of {_rate(window)} beside it: "
                    f"write `burst = {window.count}` or less."
                )
        if not windows and bucket.burst >= bucket.count > 1:
            most = bucket.burst + bucket.count
            yield (
                f"{at}: a burst of {bucket.burst} comes on top of {_rate(bucket)}, so up to {most} can leave within "
                f"one {period_text(bucket.period_us)} after a pause. If the provider counts a window, it refuses "
                f'them: write `{bucket.unit} = "{_rate(bucket)}"`, or a smaller burst.'
            )


def _in_flight(name: str, route: Route, settings: Settings, quotas: Mapping[str, Quota]) -> Iterator[str]:
    credential = settings.credentials[str(route.credential)]
    preset = _PUBLISHED.get((credential.provider, credential.wire))
    if preset is None or credential.is_local:
        return
    allowed = PRESETS[preset].limits["in_flight"]
    limits = [limit.count for each in route.quotas if (limit := quotas[each].limit(InFlight)) is not None]
    if not limits or min(limits) > int(str(allowed)):
        has = f"allow {min(limits)} calls in flight" if limits else "limit no calls in flight"
        yield (
            f"routes.{name}: its quotas {has}, and an account of {credential.provider} has {allowed} unless more "
            f'were bought: write `preset = "{preset}"` or `in_flight = {allowed}` into one of them.'
        )


def _rate(limit: Bucket | Window | FixedWindow) -> str:
    return f"{limit.count}/{period_text(limit.period_us)}"
