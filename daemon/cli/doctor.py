"""`pixmill doctor`: a line for each thing that the daemon stands on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from daemon.cli.exits import ALL_WELL, FAILED, PARTLY
from daemon.cli.session import Session, command

if TYPE_CHECKING:
    from daemon.doctor.checks import Check, Finding

DOCTOR_HELP = """Check Redis, the object store and every credential. Nothing is spent.

A line each: ok, warn (no fault yet, or it cannot be told), or fail, with what to do. The exit code is 0 without a
failure, 3 where some checks fail, 4 where all do or Redis cannot be reached.

    pixmill doctor
    pixmill doctor --json
"""


def register(app: typer.Typer) -> None:
    app.command("doctor", help=DOCTOR_HELP)(doctor)


@command
async def doctor(session: Session) -> int:
    from daemon.doctor.checks import examine

    findings = [
        *_configuration(session),
        *await _redis(session),
        *await examine(_checks_beside_redis(session)),
    ]
    _show(session, findings)
    return _exit_code(findings)


def _configuration(session: Session) -> list[Finding]:
    """A file that cannot be read ends the command before; these are the quotas, which are parsed later."""
    from daemon.doctor.checks import Finding, State
    from daemon.settings import SettingsError

    try:
        session.settings.parsed_quotas()
    except SettingsError as error:
        return [Finding("configuration", State.FAIL, problem) for problem in error.problems]
    routes = ", ".join(session.settings.routes)
    if not routes:
        said = "No route is configured: workers refuse every job, and `pixmill up` draws with the simulator."
        return [Finding("configuration", State.WARN, said)]
    return [Finding("configuration", State.OK, f"Routes: {routes}.")]


async def _redis(session: Session) -> list[Finding]:
    from daemon.broker.connect import command_client
    from daemon.doctor.checks import examine, redis_checks, unreachable
    from daemon.queue.keys import Keys
    from daemon.settings import masked_url

    url = _redis_url(session)
    if url is None:
        return [_nowhere()]
    client = command_client(url, session.settings.redis.prefix)
    try:
        away = await unreachable(client, masked_url(url))
        if away is not None:
            return [away]
        return await examine(redis_checks(client, Keys(session.settings.redis.prefix)))
    finally:
        await client.aclose()


def _checks_beside_redis(session: Session) -> dict[str, Check]:
    from functools import partial

    from daemon.doctor.checks import check_storage, credential_checks

    return {
        "storage": partial(check_storage, session.store),
        **credential_checks(session.settings.credentials, os.environ),
    }


def _redis_url(session: Session) -> str | None:
    """The Redis that is configured, or that of the `pixmill up` that runs here."""
    from daemon.client.client import NotRunningError, running_url

    if session.settings.redis.url is not None:
        return session.settings.redis.url.reveal()
    try:
        return running_url()
    except NotRunningError:
        return None


def _nowhere() -> Finding:
    from daemon.doctor.checks import Finding, State

    return Finding(
        "redis",
        State.FAIL,
        "No Redis is configured, and no `pixmill up` runs here: name one in `redis.url`, or start `pixmill up`.",
    )


def _show(session: Session, findings: list[Finding]) -> None:
    if session.as_json:
        ok = all(finding.state.value != "fail" for finding in findings)
        session.printer.document({"ok": ok, "checks": [finding.as_dict() for finding in findings]})
    else:
        session.printer.table([(finding.state.value, finding.check, finding.says) for finding in findings])


def _exit_code(findings: list[Finding]) -> int:
    failed = [finding for finding in findings if finding.state.value == "fail"]
    if not failed:
        return ALL_WELL
    without_redis = any(finding.check == "redis" for finding in failed)
    return FAILED if without_redis or len(failed) == len(findings) else PARTLY
