"""The way out of this network: the proxy that the environment names, the same for all that we send.

HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are read as in most programs; the lower case of a name counts more.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import httpx2

from providers.hosts import is_loopback
from providers.http.tls import tls_context, trust_problem

_NAMES = ("https_proxy", "http_proxy", "all_proxy")
_SCHEMES = ("http", "https", "socks5", "socks5h")
PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}  # where an address names none


def proxy_for(url: httpx2.URL, environ: Mapping[str, str] = os.environ) -> httpx2.Proxy | None:
    """The proxy for requests to `url`; None where they leave directly, as they always do to this machine itself.

    Raises ValueError with a sentence for a variable that names no usable proxy.
    """
    if is_loopback(url.host) or url.host.endswith(".localhost") or _is_excepted(url, environ):
        return None
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        variable, value = _variable(name, environ)
        if value:
            return _proxy(variable, value)
    return None


def environment_problems(environ: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable of the environment that no connection could be made with."""
    if (problem := trust_problem(environ)) is not None:
        yield problem
        return  # the context of a proxy with TLS would fail for the same reason
    for name in _NAMES:
        variable, value = _variable(name, environ)
        try:
            if value:
                _proxy(variable, value)
        except ValueError as error:
            yield str(error)


def proxies(environ: Mapping[str, str]) -> list[tuple[str, httpx2.URL]]:
    """The proxies in use, each with its variable and without a password. Raises as `proxy_for`."""
    given = (_variable(name, environ) for name in _NAMES)
    return [(name, _proxy(name, value).url) for name, value in given if value]


def _variable(name: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The spelling of a variable that counts, and its value."""
    spelling = name if name in environ else name.upper()
    return spelling, environ.get(spelling, "").strip()


def _proxy(variable: str, value: str) -> httpx2.Proxy:
    try:
        url = httpx2.URL(value if "://" in value else f"http://{value}")
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if not url.host:
        raise ValueError(f"{variable} is not the address of a proxy: write http://host:port.")
    shown = url.copy_with(username=None, password=None)
    if url.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ValueError(f"{variable} is {shown}, and {url.scheme}:// is no form of a proxy: use {known}.")
    if url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ValueError(
            f"{variable} is {shown}: install `pixmill-daemon[socks]`, or name a proxy of http://."
        )
    return httpx2.Proxy(url, ssl_context=tls_context() if url.scheme == "https" else None)


def _is_excepted(url: httpx2.URL, environ: Mapping[str, str]) -> bool:
    entries = (entry.strip().lower() for entry in _variable("no_proxy", environ)[1].split(","))
    port = url.port or PORTS.get(url.scheme, 0)
    return any(_fits(entry, url.host.lower(), port) for entry in entries if entry)


def _fits(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means this host: a name with all names below it, an address, or a network."""
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, _, number = entry.partition(":")
    name = name.removeprefix("*").lstrip(".")
    return number in ("", str(port)) and (host == name or host.endswith(f".{name}"))
