"""Two installations on one cluster: each has a node and an account, and neither touches the other's keys."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError

from pixmill.broker.connect import command_client
from providers.simulator.settings import SimulatorSettings
from tests.deploy.files import DEPLOY
from tests.topologies.rig import installed
from tests.topologies.servers import Cluster, ClusterNode

pytestmark = pytest.mark.timeout(150)  # the cluster is started within the first test that needs it

A, B = "{pixmill-a}", "{pixmill-b}"
ITEMS = 12


def users(cluster: Cluster) -> dict[str, str]:
    """The worker's user of deploy/redis/users.acl, once for each prefix, and the address for it."""
    shipped = next(line for line in (DEPLOY / "redis" / "users.acl").open() if "user pixmill-worker" in line)
    _, _, *rules = shipped.split()
    urls = {}
    for prefix, user in ((A, "worker-a"), (B, "worker-b")):
        own = [rule.replace("pixmill", prefix) if rule[0] in "~&" else rule for rule in rules]
        for node in (*cluster.nodes, cluster.spare):
            with redis.Redis(port=node.port) as client:
                client.execute_command("ACL", "SETUSER", user, *own, ">planted")
        urls[prefix] = cluster.url.replace("://", f"://{user}:planted@")
    return urls


@pytest.fixture
def urls(cluster: Cluster) -> Iterator[dict[str, str]]:
    """An address for each installation, on an empty cluster. The default user, which other tests have, stays."""
    cluster.flush()
    yield users(cluster)
    for node in (*cluster.nodes, cluster.spare):
        with redis.Redis(port=node.port) as client:
            client.execute_command("ACL", "DELUSER", "worker-a", "worker-b")


def keys_of(node: ClusterNode) -> list[str]:
    """Those of the installations: what an earlier test began may still write its own."""
    with redis.Redis(port=node.port, decode_responses=True) as client:
        found: Any = client.keys("*")
    return sorted(key for key in found if key.startswith((A, B)))


async def test_two_installations_share_a_cluster_and_neither_a_node_nor_a_quota(
    cluster: Cluster, urls: dict[str, str], tmp_path: Path
) -> None:
    """Each may use its own keys alone, by the shipped rules, so that a touch of the other's would be refused."""
    slow = SimulatorSettings(plain=True, latency_s=(0.05, 0.1), in_flight=4)
    fast = SimulatorSettings(plain=True, latency_s=(0.05, 0.1), in_flight=2)
    quotas: dict[str, dict[str, object]] = {A: {"images": "10/2s", "in_flight": 4}, B: {"in_flight": 2}}
    async with (
        installed(urls[A], tmp_path / "a", prefix=A, simulator=slow, quota=quotas[A]) as first,
        installed(urls[B], tmp_path / "b", prefix=B, simulator=fast, quota=quotas[B]) as second,
    ):
        # The same ids and prompts: nothing is shared, and no picture is taken for the other's.
        await asyncio.gather(first.send("autumn", ITEMS), second.send("autumn", ITEMS))
        counts = await asyncio.gather(first.ended("autumn"), second.ended("autumn"))
        assert [each["succeeded"] for each in counts] == [ITEMS, ITEMS]
        for made in (first, second):
            assert made.simulator.ledger.statuses() == {200: ITEMS}, "no answer is 429"
            assert set(made.calls().values()) == {1}
        assert first.simulator.ledger.max_in_window(1.7) <= 10
        assert first.simulator.ledger.max_in_flight <= 4
        assert second.simulator.ledger.max_in_flight <= 2
        held = [keys_of(node) for node in cluster.nodes]
        full = [keys for keys in held if keys]
        assert len(full) == 2, "each has a node"
        for keys in full:
            assert len({key.partition(":")[0] for key in keys}) == 1, keys


async def test_the_user_of_one_installation_may_not_read_the_keys_of_the_other(urls: dict[str, str]) -> None:
    client = command_client(urls[A], A)
    try:
        await client.get(f"{A}:probe")
        with pytest.raises(NoPermissionError):
            await client.get(f"{B}:probe")
    finally:
        await client.aclose()
