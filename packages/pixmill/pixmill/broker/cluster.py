"""Connects to the node of a cluster that has an installation's keys, and follows the keys to another node.

All keys share the slot of the prefix's hash tag, so one node has them all. A plain client to that node is enough:
pipelines, transactions, blocking reads and scripts work as on one server. Nothing is sent twice, unlike with redis-py's
cluster client, which repeats a command after a lost reply. When the slot moves to another node, the connection is
dropped with the error of a lost connection, and the next attempt looks the owner up again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

log = logging.getLogger(__name__)

Node = tuple[str, int]


class SlotOwner:
    """Knows, for all connections of a pool, which node owns the slot; it looks the owner up at the known nodes."""

    def __init__(self, seeds: Sequence[Node], prefix: str, options: Mapping[str, Any]) -> None:
        self._seeds = tuple(seeds)
        self._known: tuple[Node, ...] = ()
        self._slot = key_slot(prefix.encode())
        self._options = dict(options)
        self._owner: Node | None = None

    async def address(self) -> Node:
        """The owner's host and port. Raises redis-py's ConnectionError when no node names one."""
        if self._owner is None:
            self._owner = await self._looked_up()
        return self._owner

    def forget(self, owner: Node) -> None:
        """Look the owner up again for the next connection: this node did not reply, or lost the slot."""
        if self._owner == owner:
            self._owner = None

    async def _looked_up(self) -> Node:
        # In random order: a node that is cut off from the others would mislead us every time.
        nodes = list(dict.fromkeys((*self._known, *self._seeds)))
        random.shuffle(nodes)
        problems: list[str] = []
        for node in nodes:
            try:
                ranges = await self._ranges(node)
            except (RedisError, OSError) as error:
                problems.append(f"{node[0]}:{node[1]}: {error}")
                continue
            self._known = tuple(owner for _, _, owner in ranges)
            owner = next((owner for first, last, owner in ranges if first <= self._slot <= last), None)
            if owner is not None:
                log.info("the cluster's node with our keys: %s:%s", *owner)
                return owner
            problems.append(f"{node[0]}:{node[1]}: no node serves slot {self._slot}")
        raise RedisConnectionError(
            "No node of the cluster names the node with our keys: " + "; ".join(problems)
        )

    async def _ranges(self, node: Node) -> list[tuple[int, int, Node]]:
        """First slot, last slot and owner of each range, as one node sees them."""
        host, port = node
        client = Redis(host=host, port=port, **self._options)
        command: Callable[..., Awaitable[Any]] = client.execute_command
        try:
            # Not CLUSTER SHARDS, which Redis 6.2 does not know.
            rows = await command("CLUSTER SLOTS")
        finally:
            await client.aclose()
        # A node may not know its own name; then use the name that reached it.
        return [(int(row[0]), int(row[1]), (_text(row[2][0]) or host, int(row[2][1]))) for row in rows]


def _text(host: bytes | str | None) -> str:
    return host.decode() if isinstance(host, bytes) else host or ""


class OwnerConnection(Connection):
    """A connection to the node that owns the slot when it is made."""

    def __init__(self, *, owner: SlotOwner, **options: Any) -> None:
        self._owner = owner
        super().__init__(**options)

    async def _connect(self) -> None:
        self.host, self.port = await self._owner.address()
        try:
            await super()._connect()  # type: ignore[no-untyped-call]  # the library forgot its annotation
        except BaseException:
            self._owner.forget((self.host, self.port))
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read as the library does; MOVED becomes a lost connection, since the next one is made to the new owner."""
        try:
            return await super().read_response(*args, **options)
        except MovedError as moved:
            self._owner.forget((self.host, self.port))
            await self.disconnect()
            raise RedisConnectionError("Our keys have moved to another node of the cluster.") from moved


class OwnerSSLConnection(OwnerConnection, SSLConnection):
    """The same with TLS."""
