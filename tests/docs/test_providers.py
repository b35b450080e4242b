"""docs/providers.md is right: its accounts load, and its tables are those of the providers and the presets."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from daemon.accounts.routes import build_routes
from daemon.settings import load_settings
from limiter.quota.presets import PRESETS
from limiter.quota.quota import InFlight
from providers.hunyuan import provider as hunyuan
from providers.modelscope import provider as modelscope
from providers.openai import provider as openai
from providers.openrouter import provider as openrouter
from providers.registry import provider_names
from tests.docs.pages import ROOT

TEXT = (ROOT / "docs" / "providers.md").read_text("utf-8")
BLOCKS = re.findall(r"(?:^    .*\n|^\n)+", TEXT, re.MULTILINE)
[ACCOUNTS] = [block for block in BLOCKS if "[credentials." in block]
[QUOTAS] = [block for block in BLOCKS if "[quotas." in block]


def test_the_documented_accounts_load_and_can_be_called(tmp_path: Path) -> None:
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


def test_every_provider_has_a_row_and_a_section() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| [^`]+ \| `", TEXT, re.MULTILINE)) == {*provider_names()}
    assert set(re.findall(r"^\*\*`(\w+)`\.\*\*", TEXT, re.MULTILINE)) == {*provider_names()}


def test_the_addresses_are_the_defaults() -> None:
    shown = dict(re.findall(r"^\| `(\w+)` \|.*\| `(https://\S+)` \|$", TEXT, re.MULTILINE))
    assert shown == {
        "openai": openai.DEFAULT_BASE_URL,
        "openrouter": openrouter.DEFAULT_BASE_URL,
        "zimage": modelscope.DEFAULT_BASE_URL,
    }


def test_every_option_of_a_provider_is_named() -> None:
    for module in (openai, openrouter, modelscope, hunyuan):
        for option in module._OPTIONS:
            assert f"`{option}`" in TEXT or f"{option} = " in TEXT, option


def test_the_presets_are_shown_with_their_limits_and_sources() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d.*) \|$", TEXT, re.MULTILINE))
    assert rows.keys() == PRESETS.keys()
    for name, preset in PRESETS.items():
        limits, source = rows[name].split(" | ")
        assert source == preset.source
        for number in re.findall(r"\d+", str([*preset.limits.values()])):
            assert number in limits, f"{name}: {number}"


def test_a_limit_beside_a_preset_replaces_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text(QUOTAS)
    quotas = load_settings(tmp_path / "pixmill.toml", environ={}).settings.parsed_quotas()
    in_flight = quotas["tencent"].limit(InFlight)
    assert in_flight is not None
    assert in_flight.count == 3
