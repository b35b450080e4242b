"""The reason of a failed connection in a few words that can be shown.

The texts of the HTTP client are left out: they may quote addresses with signatures.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator

import httpx2

PROXY_WANTS_LOGIN = 407

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
