"""The forms of `redis.url`: one server, the master that Sentinels watch, or a cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from pixmill.broker.files import is_file

REDIS_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
SENTINEL_PORT = 26379
REDIS_PORT = 6379

Topology = Literal["single", "sentinel", "cluster"]

_QUOTED = (
    "with `/`, `?`, `#`, `@` and `%` of a password written as %2F, %3F, %23, %40 and %25"  # in every form
)
_FORMS: Mapping[str, str] = {
    "single": f"redis://[user:password@]host[:port][/number], {_QUOTED}",
    "sentinel": f"redis+sentinel://[user:password@]host[:port][,host...]/master[/number], {_QUOTED}; the hosts are "
    "those of the Sentinels, and the password is that of the master",
    "cluster": f"redis+cluster://[user:password@]host[:port][,host...], {_QUOTED}",
}
_NODE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:,\s]+)(?::(\d{1,5}))?", re.ASCII)
_PATHS = {
    "single": re.compile(r"(?:/(?P<db>\d*))?", re.ASCII),
    "sentinel": re.compile(r"/(?P<service>[A-Za-z0-9._-]+)(?:/(?P<db>\d*))?", re.ASCII),
    "cluster": re.compile(r"(?:/0?)?", re.ASCII),
}


class RedisUrlError(ValueError):
    """A URL that cannot be read. The text shows the right form and nothing of the URL itself."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A URL taken apart. `options` are those of every connection beside host and port; they may hold a password."""

    topology: Topology
    nodes: tuple[tuple[str, int], ...]
    service: str
    tls: bool
    options: Mapping[str, Any]


def topology_of(url: str) -> Topology:
    """The kind of installation that the URL's scheme names."""
    kind = url.partition("://")[0].rpartition("+")[2]
    return "sentinel" if kind == "sentinel" else "cluster" if kind == "cluster" else "single"


def read_redis_url(url: str) -> RedisAddress:
    """Take a URL apart. Raises RedisUrlError, whose text never has a part of the URL."""
    from redis.asyncio.connection import parse_url  # late: `--help` does not need it

    topology = topology_of(url)
    scheme, _, rest = url.partition("://")
    authority = re.match(r"[^/?#]*", rest)
    user, at, hosts = (authority[0] if authority else "").rpartition("@")
    nodes = _nodes(hosts, topology)
    try:
        # The library reads the password and the numbers in the options, as in a URL of one server.
        single = (
            url if topology == "single" else f"redis://{user}{at}localhost{rest[len(user + at + hosts) :]}"
        )
        parts = urlsplit(single)
        service, db = _path(scheme, topology, parts)
        options: dict[str, Any] = dict(parse_url(parts._replace(path=f"/{db}").geturl() if nodes else single))
    except ValueError:
        raise RedisUrlError(_FORMS[topology]) from None
    for name in ("host", "port") if nodes else ():
        options.pop(name, None)
    _check_options(scheme, options)
    return RedisAddress(topology, nodes, service, scheme.startswith("rediss"), options)


def _check_options(scheme: str, options: Mapping[str, Any]) -> None:
    """Make a connection, without connecting: the library would find a wrong option at each connect, for ever."""
    from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
    from redis.exceptions import RedisError

    kinds = {"unix": UnixDomainSocketConnection} | {
        name: SSLConnection for name in REDIS_SCHEMES if "ss" in name
    }
    own = {
        name: value
        for name, value in options.items()
        if name not in ("connection_class", "max_connections", "timeout") and not name.startswith("sentinel_")
    }
    try:
        kinds.get(scheme, Connection)(**own)
    except (TypeError, ValueError, RedisError):
        names = ", ".join(f"`{name}`" for name in own if name not in _OF_EVERY_URL and name.isidentifier())
        raise RedisUrlError(
            f"an address whose options are known and take their values; after the `?` it has {names}"
        ) from None
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if name in own and not is_file(own[name]):
            raise RedisUrlError(f"an address whose `{name}` names a file that is there")


_OF_EVERY_URL = frozenset({"host", "port", "db", "username", "password", "path"})


def _path(scheme: str, topology: Topology, parts: SplitResult) -> tuple[str, str]:
    """The name of the master and the number of the database, if the URL has them."""
    if scheme == "unix":
        return "", ""
    match = _PATHS[topology].fullmatch(parts.path)
    # A bare `/`, `?` or `#` in a password would end the hosts too early: a part of the password would be taken for a
    # host or a port, and shown in the error when that does not answer.
    if match is None or "@" in parts.query or parts.fragment:
        raise RedisUrlError(_FORMS[topology])
    found = match.groupdict()
    return found.get("service") or "", found.get("db") or ""


def one_slot_sentence(prefix: str) -> str:
    """The sentence about a prefix without braces on a cluster."""
    return f'must stand in braces on a cluster, or its keys share no slot: write "{{{prefix}}}"'


def _nodes(hosts: str, topology: Topology) -> tuple[tuple[str, int], ...]:
    """The nodes of Sentinels or a cluster; none for one server, whose host the library reads."""
    if topology == "single":
        return ()
    default = SENTINEL_PORT if topology == "sentinel" else REDIS_PORT
    nodes = []
    for host in hosts.split(","):
        match = _NODE.fullmatch(host)
        if match is None or int(match[2] or default) > 65535:
            raise RedisUrlError(_FORMS[topology])
        nodes.append((match[1].strip("[]"), int(match[2] or default)))
    return tuple(nodes)
