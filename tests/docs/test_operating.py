"""The configurations that operators are shown are right: each of them loads and makes its providers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from daemon.routes import build_routes
from daemon.settings import load_settings

TEXT = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
[ACCOUNTS] = [
    block for block in re.findall(r"(?:^    .*\n|^\n)+", TEXT, re.MULTILINE) if "[credentials." in block
]


def test_the_accounts_that_are_shown_load_and_can_be_called(tmp_path: Path) -> None:
    shown = tomllib.loads(ACCOUNTS)
    path = tmp_path / "pixmill.toml"
    routes = "".join(
        f'\n[routes.{name}-again]\ncredential = "{name}"\nmodel = "m"\n' for name in shown["credentials"]
    )
    path.write_text(ACCOUNTS + routes)
    variables = re.findall(r'_env = "(\w+)"', ACCOUNTS)
    environ = dict.fromkeys(variables, "planted")
    made = build_routes(load_settings(path, environ=environ).settings, environ)
    assert {route.provider.name for route in made.values()} == {"openrouter", "hunyuan", "zimage"}
