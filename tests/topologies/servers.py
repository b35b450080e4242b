"""More than one server: a master with replica and Sentinels, and a cluster of three nodes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import redis

from tests.servers import RedisServer, free_port

READY_S = 20.0


def until(check: Callable[[], Any], what: str, timeout_s: float = READY_S) -> Any:
    """Call `check` until it returns something true; a server that does not reply yet counts as false."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if answer := check():
                return answer
        except (redis.RedisError, OSError):
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


def caught_up(master: RedisServer) -> None:
    """Wait until its replica has everything that the master has written so far."""
    with redis.Redis(port=master.port) as leader:
        until(lambda: leader.wait(1, 1000) == 1, "a replica that has caught up")


class Watched:
    """A master, a replica that follows it, and three Sentinels: what it takes to survive the master's death."""

    service = "mymaster"

    def __init__(self) -> None:
        self.master, self.replica = RedisServer(), RedisServer()
        self.follow(self.replica, self.master)
        self._directory = Path(tempfile.mkdtemp(prefix="pixmill-sentinels-"))
        self._sentinels: dict[int, subprocess.Popen[bytes]] = {}
        for _ in range(3):
            self._start_sentinel(free_port())
        for port in self._sentinels:
            until(partial(self._knows_all, port), "a Sentinel that knows the others")

    @property
    def url(self) -> str:
        """Nothing listens at the first host, so a client must go on to the others."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *self._sentinels))
        return f"redis+sentinel://{hosts}/{self.service}/0"

    def follow(self, replica: RedisServer, master: RedisServer) -> None:
        with redis.Redis(port=master.port) as leader, redis.Redis(port=replica.port) as follower:
            leader.config_set("repl-diskless-sync-delay", 0)
            follower.config_set("repl-diskless-sync-delay", 0)
            follower.replicaof("127.0.0.1", master.port)
            until(
                lambda: follower.info("replication")["master_link_status"] == "up", "a replica that follows"
            )

    def fail_over(self) -> None:
        """Kill the master, and wait until the Sentinels have made a master of its replica."""
        self.master.kill()
        until(lambda: self._role(self.replica) == "master", "a failover")

    def _role(self, server: RedisServer) -> str:
        with redis.Redis(port=server.port) as client:
            return str(client.info("replication")["role"])

    def _start_sentinel(self, port: int) -> None:
        config = self._directory / f"{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self._directory}\n"
            f"sentinel monitor {self.service} 127.0.0.1 {self.master.port} 2\n"
            f"sentinel down-after-milliseconds {self.service} 500\n"
            f"sentinel failover-timeout {self.service} 3000\n"
        )
        self._sentinels[port] = subprocess.Popen(
            [self.master.binary, str(config), "--sentinel"], stdout=subprocess.DEVNULL, start_new_session=True
        )

    def _knows_all(self, port: int) -> bool:
        with redis.Redis(port=port, decode_responses=True) as sentinel:
            state: Any = sentinel.sentinel_master(self.service)
            return int(state["num-other-sentinels"]) == 2 and int(state["num-slaves"]) == 1

    def close(self) -> None:
        for process in self._sentinels.values():
            process.kill()
            process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        self.master.close()
        self.replica.close()


class Cluster:
    """Three masters that share the slots, and a replica of the one that owns `{pixmill}`."""

    def __init__(self) -> None:
        self.nodes = [self._node() for _ in range(3)]
        self.spare = self._node()
        clients = [redis.Redis(port=node.port, decode_responses=True) for node in self.nodes]
        share = 16384 // 3 + 1
        for number, client in enumerate(clients):
            first, last = number * share, min((number + 1) * share, 16384) - 1
            until(partial(_ok, client, "ADDSLOTSRANGE", first, last), "slots")
        for node in (*self.nodes[1:], self.spare):
            until(partial(_ok, clients[0], "MEET", "127.0.0.1", node.port, node.bus), "a meeting")
        for node in (*self.nodes, self.spare):
            until(partial(_is_whole, node), "a node that knows the whole cluster", 30)
        for client in clients:
            client.close()
        self._follow_owner()

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def owner(self) -> ClusterNode:
        """The node that has the keys of `{pixmill}`."""
        slot = redis.crc.key_slot(b"{pixmill}")
        with redis.Redis(port=self.spare.port) as client:
            rows: Any = client.execute_command("CLUSTER SLOTS")
        port = next(row[2][1] for row in rows if row[0] <= slot <= row[1])
        return next(node for node in (*self.nodes, self.spare) if node.port == port)

    @property
    def others(self) -> list[ClusterNode]:
        owner = self.owner
        return [node for node in (*self.nodes, self.spare) if node is not owner]

    def hand_over(self) -> None:
        """The replica becomes the owner of its master's slots, and loses nothing of them."""
        old = self.owner
        with redis.Redis(port=self.spare.port) as client:
            until(lambda: client.execute_command("CLUSTER FAILOVER"), "a failover that begins")
        until(lambda: self.owner is not old, "another owner", 30)

    def flush(self) -> None:
        for node in self.nodes:
            with redis.Redis(port=node.port) as client:
                until(partial(_flushed, client), "an empty node")

    def _follow_owner(self) -> None:
        owner = self.owner
        with redis.Redis(port=owner.port, decode_responses=True) as client:
            ident = client.execute_command("CLUSTER MYID")
        with redis.Redis(port=self.spare.port, decode_responses=True) as client:
            until(lambda: client.execute_command("CLUSTER REPLICATE", ident), "a replica")
            until(lambda: client.info("replication").get("master_link_status") == "up", "a replica in step")

    def _node(self) -> ClusterNode:
        return ClusterNode()

    def close(self) -> None:
        for node in (*self.nodes, self.spare):
            node.close()


class ClusterNode(RedisServer):
    """One server of a cluster; `bus` is the port at which the others reach it."""

    def __init__(self) -> None:
        self.bus = free_port()
        super().__init__(
            options=(
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                str(self.bus),
                "--cluster-node-timeout",
                "2000",
            )
        )


def _ok(client: Any, *words: Any) -> bool:
    return bool(client.execute_command("CLUSTER", *words))


def _is_whole(node: ClusterNode) -> bool:
    with redis.Redis(port=node.port, decode_responses=True) as client:
        info: Any = client.execute_command("CLUSTER INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 4


def _flushed(client: Any) -> bool:
    try:
        client.flushall()
        client.script_flush()
    except redis.ReadOnlyError:
        pass  # a replica now; its master is flushed
    return True
