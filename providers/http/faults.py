"""The reason of a failed connection in a few words that can be shown.

The texts of the HTTP client are left out: they may quote addresses with signatures.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from enum import Enum

import httpx2

PROXY_WANTS_LOGIN = 407


class Unreached(Enum):
    """Whose lack a failure before any answer shows."""

    MACHINE = "this machine has no way out: its network, its name server or its proxy fails"
    HOST = "the host is silent, or the network before it is"


_OWN_ERRORS = {errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.ENETRESET}

_LOGIN = "it wants a user name and a password, which belong into its variable: http://user:password@host:port"


def why(error: BaseException, proxy: httpx2.Proxy | None = None) -> str:
    """The deepest known reason: TLS, the name, the proxy or the system; else the class of `error`.

    `proxy`: the one on the way, which is named then; never with its password.
    """
    reason = next(filter(None, map(_reason, _causes(error))), type(error).__name__)
    return reason if proxy is None else f"by the proxy {proxy.url}: {reason}"


def login_refused(proxy: httpx2.Proxy | None) -> str:
    """The reason of an answer with status 407: a proxy gave it, and passed nothing on."""
    by = "by a proxy on the way" if proxy is None else f"by the proxy {proxy.url}"
    return f"{by}: it answered {PROXY_WANTS_LOGIN}, so {_LOGIN}"


def unreached(error: BaseException, proxy: httpx2.Proxy | None = None) -> Unreached | None:
    """Whose lack kept a request from its host; None for a definite answer: of the host, or that it has no such name."""
    causes = list(_causes(error))
    if any(isinstance(each, httpx2.ProxyError) for each in causes):
        return Unreached.MACHINE
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return None
    if (
        any(isinstance(each, httpx2.ConnectError | httpx2.ConnectTimeout) for each in causes)
        and proxy is not None
    ):
        return Unreached.MACHINE
    for each in causes:
        if isinstance(each, socket.gaierror):
            return Unreached.MACHINE if each.errno == socket.EAI_AGAIN else None
        if isinstance(each, OSError) and each.errno in _OWN_ERRORS:
            return Unreached.MACHINE
        if isinstance(each, httpx2.ConnectTimeout) or (
            isinstance(each, OSError) and each.errno == errno.EHOSTUNREACH
        ):
            return Unreached.HOST
    return None


def _reason(error: BaseException) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"its certificate is not trusted: {error.verify_message}; if a proxy looks into TLS here, "
                "SSL_CERT_FILE names a file with its CA"
            )
        case ssl.SSLError():
            return f"TLS failed: {(error.reason or 'unknown').lower().replace('_', ' ')}"
        case socket.gaierror():
            return "its name could not be resolved"
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
        case httpx2.ProxyError() if status := re.match(r"\d{3}\b", str(error)):
            return f"it answered {status[0]}" + f", so {_LOGIN}" * (int(status[0]) == PROXY_WANTS_LOGIN)
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it, the outermost first; of several causes at once the first."""
    while error is not None:
        yield error
        error = (
            error.exceptions[0]
            if isinstance(error, BaseExceptionGroup)
            else error.__cause__ or error.__context__
        )
