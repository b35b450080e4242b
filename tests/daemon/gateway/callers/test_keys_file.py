"""The file of keys."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.gateway.callers.keyring import KeyRing, Seal
from daemon.gateway.callers.keys_file import FORM, add_key, digest, read_keys
from daemon.gateway.callers.scopes import Scope
from daemon.settings import Settings, SettingsError
from daemon.settings.contradictions import contradictions


def test_the_file_holds_hashes_and_is_for_its_owner_alone(keys_file: Path) -> None:
    key = add_key(keys_file, "mine", "shop", frozenset({"read"}))
    assert FORM.fullmatch(key)
    assert key not in keys_file.read_text()
    assert digest(key) in keys_file.read_text()
    assert keys_file.stat().st_mode & 0o777 == 0o600


async def test_keys_made_at_once_are_all_kept(keys_file: Path) -> None:
    names = [f"k{number}" for number in range(20)]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(asyncio.to_thread(add_key, keys_file, name, "shop", frozenset[Scope]({"read"})))
    assert sorted(key.name for key in read_keys(keys_file)) == sorted(names)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"keys": [{"name": "a"}]}', json.dumps({"keys": [], "key": "pxm_planted"})]
)
async def test_a_spoilt_file_is_named_without_its_content(
    redis: Redis, keys_file: Path, content: str
) -> None:
    await asyncio.to_thread(keys_file.write_text, content)
    with pytest.raises(SettingsError, match="keys_file") as caught:
        KeyRing(keys_file, Seal(redis, "pixmill:seal"))
    assert "pxm_planted" not in str(caught.value)


async def test_a_missing_file_names_the_command_that_makes_it(redis: Redis, keys_file: Path) -> None:
    with pytest.raises(SettingsError, match="pixmill key new"):
        KeyRing(keys_file, Seal(redis, "pixmill:seal"))


@pytest.mark.parametrize(("name", "tenant"), [("a b", "shop"), ("", "shop"), ("a", "no/slash")])
def test_a_key_needs_a_name_and_a_tenant_of_the_contract(keys_file: Path, name: str, tenant: str) -> None:
    with pytest.raises(SettingsError):
        add_key(keys_file, name, tenant, frozenset({"read"}))
    assert not keys_file.exists()


def test_other_machines_are_served_with_keys_only() -> None:
    settings = Settings.model_validate({"gateway": {"listen": "0.0.0.0:1"}})
    assert any("gateway.keys_file" in sentence for _, sentence in contradictions(settings))
