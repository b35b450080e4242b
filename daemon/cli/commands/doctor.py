"""`pixmill doctor`: a line for each thing that the daemon depends on."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial

from daemon.accounts.routes import refuse_environment
from daemon.cli.errors import ALL_WELL, FAILED, PARTLY
from daemon.cli.session import Session, command
from daemon.doctor.checks import (
    Check,
    Finding,
    State,
    check_storage,
    credential_checks,
    examine,
)
from daemon.doctor.clash import clashes
from daemon.doctor.redis_checks import redis_checks, server_time_s, unreachable
from daemon.gateway.callers.keys_file import open_to_others, read_keys
from daemon.settings import SettingsError, masked_url
from daemon.telemetry.logs import configure_logs
from pixmill.broker.connect import command_client
from pixmill.client import NotRunningError
from pixmill.client.client import running_url
from pixmill.records.keys import Keys
from providers.http.proxies import proxies_in_words


@command
async def doctor(session: Session) -> int:
    """Check Redis, the object store and every credential. Nothing is spent.

    Each line is ok, warn (no fault yet, or not known) or fail, with the remedy.
    The exit code is 0 without a failure, 3 where some checks fail, 4 where all do or Redis cannot be reached,
    2 where SSL_CERT_FILE or a proxy's variable allows no connection at all.

        pixmill doctor
        pixmill doctor --json
    """
    configure_logs(level="error")
    refuse_environment(os.environ)
    credentials = credential_checks(session.settings.credentials, session.settings.routes, os.environ)
    findings = [*_configuration(session), *clashes(), *_keys(session), *await _redis(session, credentials)]
    failed = [finding.check for finding in findings if finding.state == State.FAIL]
    session.printer.table(
        {"ok": not failed, "checks": [asdict(finding) for finding in findings]},
        [(finding.state.value, finding.check, finding.says) for finding in findings],
    )
    if not failed:
        return ALL_WELL
    return FAILED if "redis" in failed or len(failed) == len(findings) else PARTLY


def _configuration(session: Session) -> list[Finding]:
    """Findings about quotas and routes. (An unreadable file has ended the command before.)"""
    try:
        session.settings.parsed_quotas()
    except SettingsError as error:
        return [Finding("configuration", State.FAIL, problem) for problem in error.problems]
    if routes := ", ".join(session.settings.routes):
        return [Finding("configuration", State.OK, f"Routes: {routes}."), *_way_out(session)]
    none = "No route is configured: workers refuse every job, and `pixmill up` draws with the simulator."
    return [Finding("configuration", State.WARN, none)]


def _keys(session: Session) -> list[Finding]:
    """Whether a gateway can read its keys, and others cannot; nothing where no keys are configured."""
    path = session.settings.gateway.keys_file
    if path is None:
        return []
    try:
        count = len(read_keys(path))
        exposed = open_to_others(path)
    except SettingsError as error:
        return [Finding("keys", State.FAIL, problem) for problem in error.problems]
    if exposed is not None:
        return [Finding("keys", State.WARN, exposed)]
    if not count:
        return [
            Finding("keys", State.WARN, f"{path} has no key, so nobody may send: `pixmill key new NAME`.")
        ]
    return [Finding("keys", State.OK, f"{path} has {count} of them.")]


def _way_out(session: Session) -> list[Finding]:
    """The proxies that calls leave by; none where nothing names a proxy."""
    proxies = proxies_in_words(os.environ)
    if not proxies:
        return []
    everything = session.settings.network.proxy == "all"
    what = "Calls, results, inputs and callbacks leave" if everything else "Only calls to providers leave"
    unchecked = " It resolves their names, so it must refuse private addresses." if everything else ""
    return [Finding("proxy", State.OK, f"{what} by {proxies}.{unchecked}")]


async def _redis(session: Session, others: dict[str, Check]) -> list[Finding]:
    """Findings about Redis, then the store, whose clock is compared with that of Redis, then `others`."""
    configured = session.settings.redis
    try:
        url = configured.url.reveal() if configured.url is not None else running_url()
    except NotRunningError:
        nowhere = (
            "No Redis is configured, and no `pixmill up` runs here: set `redis.url`, or start `pixmill up`."
        )
        found = [Finding("redis", State.FAIL, nowhere)]
        return found + await examine({"storage": partial(check_storage, session.store), **others})
    client = command_client(url, configured.prefix)
    try:
        away = await unreachable(client, masked_url(url))
        found = [away] if away else await examine(redis_checks(client, Keys(configured.prefix)))
        server_s = None if away else partial(server_time_s, client)
        return found + await examine({"storage": partial(check_storage, session.store, server_s), **others})
    finally:
        await client.aclose()
