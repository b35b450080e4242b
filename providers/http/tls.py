"""The TLS settings of every outgoing connection. The certificate bundle is read once, because that is slow."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2


@cache
def tls_context() -> ssl.SSLContext:
    """Verifies against the bundle that SSL_CERT_FILE or SSL_CERT_DIR name, else against certifi's."""
    return httpx2.create_ssl_context()
