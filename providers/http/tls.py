"""The TLS settings of every outgoing connection. The certificates are read once, because that is slow."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import httpx2


@cache
def tls_context() -> ssl.SSLContext:
    """Verifies against the certificates that SSL_CERT_FILE or SSL_CERT_DIR name, else against the system's."""
    return httpx2.create_ssl_context()


def trust_problem(environ: Mapping[str, str]) -> str | None:
    """Why no certificate could be verified with these variables, as a sentence; None if all is well."""
    if file := environ.get("SSL_CERT_FILE"):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
        except OSError as error:
            why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            return f"SSL_CERT_FILE is {file} ({why}): name a PEM file with certificates, or unset it."
    elif (folder := environ.get("SSL_CERT_DIR")) and not Path(folder).is_dir():
        return f"SSL_CERT_DIR is {folder}, which is no folder: name one with certificates, or unset it."
    return None


def trusted_authorities(environ: Mapping[str, str]) -> int:
    """How many authorities a connection may trust. Those of a folder are loaded when needed, so its links count."""
    folder = environ.get("SSL_CERT_DIR") or ssl.get_default_verify_paths().openssl_capath
    if environ.get("SSL_CERT_FILE") or not Path(folder).is_dir():
        links = 0
    else:
        links = sum(1 for each in Path(folder).iterdir() if _HASHED.fullmatch(each.name))
    return max(links, tls_context().cert_store_stats()["x509_ca"])


_HASHED = re.compile(r"[0-9a-f]{8}\.\d")  # as OpenSSL looks them up
