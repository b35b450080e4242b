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
    assert loaded.settings.quotas == {"z": {"requests": {"every": "2s"}}}
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


@pytest.mark.parametrize(
    ("pause", "period_us"),
    [
        ("0.5", 500_000),
        ("1.5", 1_500_000),
        ("0.001", 1_000),
        ("60", 60_000_000),
        ("1E+3", 10**9),
        (" 2 ", 2_000_000),
    ],
)
def test_any_pause_is_the_least_distance_of_two_calls(load: Load, pause: str, period_us: int) -> None:
    loaded = load("[credentials.z]\nprovider = 'zimage'\n", {"ZIMAGE_BATCH_DELAY": pause})
    assert loaded.settings.parsed_quotas()["z"].limits == (Window(1, period_us),)


@pytest.mark.parametrize("pause", ["0", "0.0", "-0"])
def test_a_pause_of_nothing_is_no_limit(load: Load, pause: str) -> None:
    text = "[credentials.z]\nprovider = 'zimage'\n[routes.default]\ncredential = 'z'\nmodel = 'm'\n"
    loaded = load(text, {"ZIMAGE_BATCH_DELAY": pause})
    assert loaded.settings.quotas == {}
    assert loaded.settings.routes["default"].quotas == []


def two_routes(one: list[str], other: list[str], *, key: str = "MODELSCOPE_API_KEY") -> str:
    """Two routes of two credentials; with the default `key` both name one account."""
    return f"""
    [credentials.z]
    provider = "zimage"
    [credentials.y]
    provider = "zimage"
    api_key_env = "{key}"
    [routes.one]
    credential = "z"
    model = "m"
    quotas = {one}
    [routes.other]
    credential = "y"
    model = "m"
    quotas = {other}
    [quotas.a]
    images = "20/min"
    [quotas.b]
    images = "20/min"
    """


@pytest.mark.parametrize(
    ("one", "other", "limited"),
    [([], [], {"z"}), (["a"], [], {"a"}), (["a"], ["a"], {"a"}), (["a", "b"], ["b"], {"b"})],
)
def test_a_pause_holds_for_all_routes_of_an_account_together(
    load: Load, one: list[str], other: list[str], limited: set[str]
) -> None:
    settings = load(two_routes(one, other), {"ZIMAGE_BATCH_DELAY": "2"}).settings
    assert {name for name, table in settings.quotas.items() if "requests" in table} == limited
    assert all(limited <= set(route.quotas) for route in settings.routes.values())


def test_a_pause_is_refused_where_two_routes_of_an_account_share_no_quota(load: Load) -> None:
    environ = {"ZIMAGE_BATCH_DELAY": "2", "MODELSCOPE_API_KEY": "ms-planted"}
    (found,) = problems(load, two_routes(["a"], ["b"]), environ)
    assert found == (
        "environment ZIMAGE_BATCH_DELAY: it limits all calls of one account, but the routes `one` and `other` of the "
        "account in MODELSCOPE_API_KEY share no quota; name one quota in all of them, beside others of their own."
    )


def test_a_pause_holds_for_each_of_two_accounts(load: Load) -> None:
    settings = load(two_routes(["a"], ["b"], key="OTHER_KEY"), {"ZIMAGE_BATCH_DELAY": "2"}).settings
    assert all("requests" in table for table in settings.quotas.values())


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
        ("ZIMAGE_BATCH_DELAY", "inf"),
        ("ZIMAGE_BATCH_DELAY", "1e400"),
        ("ZIMAGE_BATCH_DELAY", "0.0001"),
        ("ZIMAGE_BATCH_DELAY", "1/2"),
        ("HUNYUAN_MAX_CONCURRENT", "0"),
    ],
)
def test_an_older_name_with_a_senseless_value_is_a_problem(load: Load, name: str, value: str) -> None:
    text = "[credentials.z]\nprovider = 'zimage'\n[credentials.h]\nprovider = 'hunyuan'\n"
    (found,) = problems(load, text, {name: value})
    assert found.startswith(f"environment {name}: must be")
