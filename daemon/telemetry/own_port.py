"""Finds the port of /metrics, so that several replicas share a machine."""

from __future__ import annotations

import errno
import socket
import sys

from daemon.settings import Listen, Settings, SettingsError
from daemon.telemetry.streams import Unbroken
from providers.http.asgi import family_of

PORTS_TRIED = 100  # beyond the default one


def with_own_metrics_port(settings: Settings) -> Settings:
    """The settings with the next free metrics port where the default one is taken, so several replicas share a machine.

    Raises SettingsError if the taken port is one that the operator set: a scraper expects this replica there.
    """
    listen = settings.metrics.listen
    if listen.port == 0 or not _is_taken(listen):
        return settings
    if "listen" in settings.metrics.model_fields_set:
        raise SettingsError(
            [
                f"{listen} (`metrics.listen`, --metrics) is taken by another process: set another port, or leave the "
                "setting out, and the next free one is used."
            ]
        )
    ports = range(listen.port + 1, listen.port + PORTS_TRIED)
    others = (Listen(f"{listen.host}:{port}") for port in ports)
    own = next((other for other in others if not _is_taken(other)), Listen(f"{listen.host}:0"))
    said = f"{listen} is taken; this replica serves /metrics, /healthz and /readyz on {own}."
    print(said, file=Unbroken(sys.stderr), flush=True)
    return settings.model_copy(update={"metrics": settings.metrics.model_copy(update={"listen": own})})


def _is_taken(listen: Listen) -> bool:
    with socket.socket(family_of(listen.host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen.host, listen.port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # the server explains every other error
    return False
