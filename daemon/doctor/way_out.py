"""Checks of the way out of this machine: the proxies that calls leave by, and the certificates that they trust."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

import httpx2

from daemon.doctor.checks import Check, Finding, fail, ok, warn
from providers.http.proxies import PORTS, proxies
from providers.http.tls import trusted_authorities

CONNECT_S = 5.0
# Variables of other programs for certificates, which httpx does not read; the exporter of traces alone does.
_FOREIGN = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def way_out_checks(environ: Mapping[str, str], *, everything: bool) -> dict[str, Check]:
    """Certificates, and each proxy of the environment. `everything`: pictures and callbacks leave by it, too.

    Raises ValueError for a variable that names no usable proxy.
    """
    named = {
        f"proxy {variable}": partial(_proxy, variable, url, everything) for variable, url in proxies(environ)
    }
    return {"certificates": partial(_certificates, environ), **named}


async def _certificates(environ: Mapping[str, str]) -> Finding:
    count = trusted_authorities(environ)
    if not count:
        return warn(
            "This machine has no certificates of authorities, so no https address can be trusted: "
            "`apt-get install ca-certificates`, or name a PEM file in SSL_CERT_FILE."
        )
    foreign = next((name for name in _FOREIGN if environ.get(name)), None)
    if foreign is not None and not environ.get("SSL_CERT_FILE"):
        return warn(f'{foreign} is set, and no call here reads it: `export SSL_CERT_FILE="${foreign}"`.')
    return ok(f"Authorities that are trusted: {count}.")


async def _proxy(variable: str, url: httpx2.URL, everything: bool) -> Finding:
    """Whether the proxy accepts a connection; nothing is sent through it."""
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(url.host, url.port or PORTS[url.scheme])
    except (OSError, TimeoutError) as error:
        why = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else f"no answer in {CONNECT_S:g} s"
        )
        return fail(
            f"{variable} {url} cannot be reached ({why}): correct it, or `unset {variable}` where calls may leave "
            "directly."
        )
    writer.close()
    what = "Calls, results, inputs and callbacks leave" if everything else "Only calls to providers leave"
    unchecked = " It resolves their names, so it must refuse private addresses." if everything else ""
    return ok(f"{what} by {variable} {url}.{unchecked}")
