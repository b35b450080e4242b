"""Names that older clients read from the environment: they fill in open settings, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from daemon.compat.aliases import alias_source
from daemon.settings import LoadedSettings, load_settings
from limiter import Window
from tests.daemon.settings.test_settings import WHOLE, problems

Load = Callable[..., LoadedSettings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as ./pixmill.toml of an empty directory, with the older names of `environ`."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, environ: Mapping[str, str]) -> LoadedSettings:
        (tmp_path / "pixmill.toml").write_text(text)
        return load_settings(environ=environ, offers=[alias_source])

    return load_text


def test_an_older_clients_pause_is_a_limit_of_its_quota(load: Load) -> None:
    text = """
    [credentials.z]
    provider = "zimage"
    [routes.default]
    credential = "z"
    model = "m"
    """
    environ = {"ZIMAGE_BATCH_DELAY": "2.0", "MODELSCOPE_API_KEY": "ms-planted"}
    loaded = load(text, environ)
    assert loaded.settings.quotas == {"z": {"requests": "1/2s"}}
    assert loaded.settings.routes["default"].quotas == ["z"]
    assert loaded.settings.credentials["z"].resolve(environ) == {"api_key": "ms-planted"}
    assert loaded.source("quotas.z.requests") == "environment ZIMAGE_BATCH_DELAY"
    assert loaded.source("credentials.z.api_key_env") == "environment MODELSCOPE_API_KEY"
    assert "ms-planted" not in repr(loaded)
    assert loaded.settings.parsed_quotas()["z"].limits


def test_an_older_clients_pause_leaves_the_allowance_of_a_preset_in_force(load: Load) -> None:
    text = """
    [credentials.z]
    provider = "zimage"
    [routes.default]
    credential = "z"
    model = "m"
    quotas = ["day"]
    [quotas.day]
    preset = "modelscope-zimage"
    """
    quota = load(text, {"ZIMAGE_BATCH_DELAY": "2.0"}).settings.parsed_quotas()["day"]
    assert quota.limits == (Window(500, 86_400_000_000), Window(1, 2_000_000))


def test_a_pause_does_not_hide_that_a_quota_is_no_table(load: Load) -> None:
    text = "[credentials.z]\nprovider = 'zimage'\n[quotas]\nz = 'fast'\n"
    (found,) = problems(load, text, {"ZIMAGE_BATCH_DELAY": "2.0"})
    assert "quotas.z" in found


@pytest.mark.parametrize(("pause", "limit"), [("0.5", "2/1s"), ("1.5", "2/3s"), ("0", None), ("60", "1/60s")])
def test_any_pause_has_its_rate(load: Load, pause: str, limit: str | None) -> None:
    loaded = load("[credentials.z]\nprovider = 'zimage'\n", {"ZIMAGE_BATCH_DELAY": pause})
    assert loaded.settings.quotas.get("z", {}).get("requests") == limit


def test_older_names_fill_in_only_open_settings(load: Load) -> None:
    environ = {"HUNYUAN_MAX_CONCURRENT": "2", "HUNYUAN_SECRET_ID": "a", "HUNYUAN_SECRET_KEY": "b"}
    loaded = load(WHOLE, environ)
    credential = loaded.settings.credentials["hunyuan-main"]
    assert (credential.secret_id_env, credential.secret_key_env) == ("TENCENT_ID", None)
    assert loaded.settings.quotas["hunyuan-main"] == {"preset": "tencent-hunyuan", "in_flight": 2}
    own = load(WHOLE, {**environ, "PIXMILL_QUOTAS__HUNYUAN_MAIN__IN_FLIGHT": "3"})
    assert own.settings.quotas["hunyuan-main"]["in_flight"] == 3


def test_older_names_add_nothing_without_such_an_account(load: Load) -> None:
    environ = {"ZIMAGE_BATCH_DELAY": "2", "MODELSCOPE_API_KEY": "x", "HUNYUAN_MAX_CONCURRENT": "1"}
    assert load("", environ).sources == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ZIMAGE_BATCH_DELAY", "two"),
        ("ZIMAGE_BATCH_DELAY", "-1"),
        ("ZIMAGE_BATCH_DELAY", "nan"),
        ("HUNYUAN_MAX_CONCURRENT", "0"),
    ],
)
def test_an_older_name_with_a_senseless_value_is_a_problem(load: Load, name: str, value: str) -> None:
    text = "[credentials.z]\nprovider = 'zimage'\n[credentials.h]\nprovider = 'hunyuan'\n"
    (found,) = problems(load, text, {name: value})
    assert found.startswith(f"environment {name}: must be")
