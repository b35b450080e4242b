"""The page docs/operating.md about gateways: the commands for keys, and the names of alerts."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.gateway.callers.keys_file import read_keys
from tests.deploy.files import ROOT, alerts
from tests.docs.test_operating import TEXT, _lines


def test_the_alerts_that_the_page_names_exist() -> None:
    assert set(re.findall(r"`(Pixmill[A-Z]\w+)`", TEXT)) <= set(alerts())


async def test_the_commands_for_keys_work_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = _lines("pixmill key new shop")
    assert len(commands) == 3
    for command in commands:
        done = await asyncio.to_thread(CliRunner().invoke, app, shlex.split(command)[1:])
        assert done.exit_code == 0, f"{command}\n{done.output}"
    assert read_keys(tmp_path / "keys.json") == []
    (composed,) = re.findall(r"`docker compose exec gateway pixmill (key new [^`]*)`", TEXT)
    assert f"pixmill {composed}" in (ROOT / "compose.yaml").read_text()
    file = f'[gateway]\nkeys_file = "{tmp_path}/keys.json"\nlisten = "0.0.0.0:8080"\n'
    (tmp_path / "other.toml").write_text(file)
    environ = {"PIXMILL_CONFIG": str(tmp_path / "other.toml")}
    done = await asyncio.to_thread(CliRunner().invoke, app, composed.split(), env=environ)
    assert done.exit_code == 0, done.output
    (key,) = read_keys(tmp_path / "keys.json")
    assert (key.name, key.tenant, set(key.scopes)) == ("shop", "shop", {"read", "submit"})
