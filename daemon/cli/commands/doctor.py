"""`pixmill doctor`: a line for each thing that the daemon depends on."""

from __future__ import annotations

import os
from dataclasses import asdict
from functools import partial

from redis.asyncio import Redis

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
from daemon.doctor.redis_checks import memory_checks, redis_checks, server_time_s, unreachable
from daemon.doctor.stream_checks import stream_checks
from daemon.doctor.way_out import way_out_checks
from daemon.gateway.callers.keys_file import open_to_others, read_keys
from daemon.settings import SettingsError, masked_url
from daemon.settings.quota_doubts import quota_doubts
from daemon.telemetry.logs import configure_logs
from daemon.worker.descriptors import fitting_slots, raise_limit
from pixmill.broker.connect import command_client
from pixmill.client import NotRunningError
from pixmill.client.client import running_url
from pixmill.records.keys import Keys


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
    way_out = way_out_checks(os.environ, everything=session.settings.network.proxy == "all")
    findings = [
        *_configuration(session),
        *clashes(),
        *_keys(session),
        _descriptors(session),
        *await examine(way_out),
        *await _redis(session, credentials),
    ]
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
    if not session.settings.routes:
        none = "No route is configured: workers refuse every job, and `pixmill up` draws with the simulator."
        return [Finding("configuration", State.WARN, none)]
    doubts = [Finding("quotas", State.WARN, doubt) for doubt in quota_doubts(session.settings, os.environ)]
    routes = ", ".join(session.settings.routes)
    return [Finding("configuration", State.OK, f"Routes: {routes}."), *doubts]


def _descriptors(session: Session) -> Finding:
    """Whether a worker of this shell could open as many files and connections as its slots need."""
    limit = raise_limit()
    try:
        slots, reason = fitting_slots(session.settings.worker.max_in_flight, limit)
    except SettingsError as error:
        return Finding("descriptors", State.FAIL, str(error))
    if reason is not None:
        return Finding("descriptors", State.WARN, reason)
    return Finding(
        "descriptors", State.OK, f"The limit of {limit} file descriptors suffices for {slots} jobs at a time."
    )


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


def _redis_checks(session: Session, client: Redis) -> dict[str, Check]:
    settings = session.settings
    keys = Keys(settings.redis.prefix)
    return {
        **redis_checks(client, keys),
        **memory_checks(client, settings.worker.max_backlog_per_tenant),
        **stream_checks(client, keys, settings.routes),
    }


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
        found = [away] if away else await examine(_redis_checks(session, client))
        server_s = None if away else partial(server_time_s, client)
        return found + await examine({"storage": partial(check_storage, session.store, server_s), **others})
    finally:
        await client.aclose()
