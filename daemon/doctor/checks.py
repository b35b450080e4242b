"""Runs checks, and checks store and credentials. Each check gives one line: its state, and the remedy.

Nothing here costs money, and nothing stays behind: the store gets one small object, which is deleted again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import structlog
from redis.exceptions import RedisError, ResponseError

from daemon.settings import Credential, Route, SettingsError
from daemon.storage.object_store import ResultStore, StorageError
from pixmill.broker.errors import CONNECTION_FAULTS, lost
from pixmill.redaction import redact
from providers.base import ChecksCredential, Provider
from providers.registry import create_provider
from providers.shared.account import nearest_hint

log = structlog.get_logger(__name__)

STORE_CLOCK_WARN_S = 5.0  # stores count whole seconds, and the check takes a moment
CHECK_TIMEOUT_S = 15.0
# For commands that the worker's user may not give: $REDIS_URL leads to Redis as an administrator.
ADMIN_CLI = 'redis-cli -u "$REDIS_URL"'
SERVER_TIME_S = 3.0


class State(StrEnum):
    """The result of a check. A warning is no fault yet, or a fact that could not be found out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: which check, its state, and a sentence with the remedy where one is needed."""

    check: str
    state: State
    says: str


ok, warn, fail = (partial(Finding, "", state) for state in State)
Check = Callable[[], Awaitable[Finding]]  # `examine` puts the check's name into the finding


async def examine(checks: Mapping[str, Check], *, timeout_s: float = CHECK_TIMEOUT_S) -> list[Finding]:
    """All findings in the order of `checks`, which run side by side; a check that breaks is a finding, too."""
    findings = await asyncio.gather(*(_guarded(name, check, timeout_s) for name, check in checks.items()))
    return [replace(finding, check=name) for name, finding in zip(checks, findings, strict=True)]


async def _guarded(name: str, check: Check, timeout_s: float) -> Finding:
    try:
        async with asyncio.timeout(timeout_s):
            return await check()
    except TimeoutError:
        return fail(f"No answer within {timeout_s:g} s.")
    except ResponseError as error:
        return warn(
            f"Redis does not answer this ({redact(str(error))}). Does the ACL of its user allow the command?"
        )
    except (RedisError, *CONNECTION_FAULTS) as error:
        return fail(f"Redis does not answer ({lost(error)}).")
    except Exception as error:
        log.exception("a check of the doctor broke", check=name)
        return fail(f"The check itself broke ({type(error).__name__}); the log has details.")


async def check_storage(
    open_store: Callable[[], ResultStore], server_s: Callable[[], Awaitable[float]] | None = None
) -> Finding:
    """Whether an object can be written, read and deleted, and whether the store's clock is right.

    `server_s` is the clock of Redis, in Unix seconds: workers compare the two. Without one that answers, the clock of
    this machine stands in.
    """
    try:
        store = open_store()
        written_s = (await store.check()).timestamp()
        now_s, whose = await _reference(server_s)
        await store.aclose()
    except StorageError as error:
        says = str(error)
        # A whole sentence has its own advice, or needs none.
        return fail(says if says.endswith(".") else f"{says}. Is the path, or the cloud's credential, right?")
    apart_s = written_s - now_s
    if abs(apart_s) > STORE_CLOCK_WARN_S:
        side = "ahead of" if apart_s > 0 else "behind"
        return warn(
            f"The store's clock is {abs(apart_s):.0f} s {side} that of {whose}: set both by NTP. The age of a stored "
            "picture decides whether it is found after a crash."
        )
    return ok("Pictures can be written and read.")


async def _reference(server_s: Callable[[], Awaitable[float]] | None) -> tuple[float, str]:
    if server_s is not None:
        try:
            async with asyncio.timeout(SERVER_TIME_S):
                return await server_s(), "Redis"
        except (RedisError, TimeoutError, *CONNECTION_FAULTS):
            pass  # the lines about Redis have the reason
    return time.time(), "this machine"


def credential_checks(
    credentials: Mapping[str, Credential], routes: Mapping[str, Route], environ: Mapping[str, str]
) -> dict[str, Check]:
    """A check for each credential: its secret is there, and its provider accepts it, if that test is free.

    Where the test shows the provider's models, those of the credential's routes must be among them.
    """
    models = {
        name: sorted({str(route.model) for route in routes.values() if route.credential == name})
        for name in credentials
    }
    return {
        f"credential {name}": partial(_credential, credential, models[name], environ)
        for name, credential in credentials.items()
    }


def provider_of(credential: Credential, environ: Mapping[str, str]) -> Provider:
    """The provider of a credential; nothing is sent.

    Raises SettingsError for a secret that is not here, ValueError for a value that the provider refuses.
    """
    return create_provider(
        credential.provider,
        base_url=credential.base_url,
        secrets=credential.resolve(environ),
        options=credential.provider_options(),
    )


async def _credential(credential: Credential, models: Collection[str], environ: Mapping[str, str]) -> Finding:
    try:
        provider = provider_of(credential, environ)
    except (SettingsError, ValueError) as error:
        return fail(str(error))
    try:
        if not isinstance(provider, ChecksCredential):
            return ok(f"The secret is there; {provider.name} has no request that is free.")
        found = await provider.check_credential(timeout_s=CHECK_TIMEOUT_S - 5)
    finally:
        await provider.aclose()
    # A variant of OpenRouter, such as NAME:nitro, is served though only its NAME is listed.
    served = [model for model in models if {model, model.partition(":")[0]} & found.models]
    if found.models and (unknown := [model for model in models if model not in served]):
        names = " ".join(f"It lists no {model}.{nearest_hint(model, found.models)}" for model in unknown)
        return warn(f"{found.says} {names} A job would fail, unless the provider serves more than it lists.")
    return Finding("", {None: State.WARN, True: State.OK, False: State.FAIL}[found.good], found.says)
