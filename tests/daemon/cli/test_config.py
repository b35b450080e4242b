"""`pixmill config check` and `print`: for people, for programs, and without secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.accounts.routes import build_routes
from daemon.cli.commands.config import config as config_app
from daemon.compat.aliases import alias_source
from daemon.settings import SettingsError, load_settings
from limiter.quota.quota import Quota, Window
from pixmill.contract import Job
from tests.daemon.settings.test_settings import WHOLE

run = CliRunner().invoke


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "pixmill.toml"
    path.write_text(WHOLE)
    return str(path)


def test_check_reports_a_right_configuration(config: str) -> None:
    result = run(config_app, ["check", "--config", config], env={"OPENAI_API_KEY": "sk-planted"})
    assert result.exit_code == 0
    assert "OK: " in result.stdout
    assert "2 routes, 2 credentials, 2 quotas" in result.stdout
    assert "note: credentials.hunyuan-main: The environment variable TENCENT_ID" in result.stdout
    assert "hunter2" not in result.output
    assert "sk-planted" not in result.output


def test_check_reports_every_problem_and_exits_2(config: str) -> None:
    environ = {"PIXMILL_WORKER__LEASE": "x", "PIXMILL_NONE__A": "1"}
    result = run(config_app, ["check", "--config", config], env=environ)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 2


def test_check_knows_the_keys_and_the_routes_of_a_gateway(tmp_path: Path) -> None:
    keys, path = tmp_path / "keys.json", tmp_path / "pixmill.toml"
    path.write_text(f'[gateway]\nkeys_file = "{keys}"\nslide_route = "decks"\n')
    result = run(config_app, ["check", "--config", str(path)])
    assert result.exit_code == 0
    assert f"note: gateway.keys_file {keys} is not there" in result.stdout
    assert 'note: gateway.slide_route: there is no route "decks"' in result.stdout
    assert "studio_route" not in result.stdout, "nobody named it"
    keys.write_text('{"keys": [{"name": "planted"}]}')
    result = run(config_app, ["check", "--config", str(path)])
    assert result.exit_code == 2
    assert f"gateway.keys_file {keys}: keys.0." in result.stderr


MANY_FAULTS = """
[gateway]
listen = "0.0.0.0:8080"
[credentials.a]
provider = "opneai"
[credentials.b]
provider = "openai"
api_key = "sk-planted"
[quotas.q]
image = "20/min"
reqests = "5/s"
adaptive = "yes"
[quotas.r]
preset = "tencent"
in_fligth = 4
[routes.default]
credential = "b"
model = "m"
quotas = ["p"]
[routes.other]
credential = "a"
"""


def test_check_reports_faults_of_every_kind_in_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pixmill.toml"
    path.write_text(MANY_FAULTS)
    result = run(config_app, ["check", "--json", "--config", str(path)])
    problems = json.loads(result.stdout)["problems"]
    expected = {
        "`gateway.listen` would serve other machines": 3,
        '"opneai"': 5,
        "`credentials.b.api_key` would hold a secret": 8,
        "quota 'q', field 'adaptive'": 12,
        "quota 'q', field 'image'": 10,
        "quota 'q', field 'reqests'": 11,
        "quota 'r': preset 'tencent' is unknown": 13,
        "quota 'r', field 'in_fligth'": 15,
        "`routes.default.quotas` names a quota": 19,
        "`routes.other.model` is missing": 20,
    }
    found = {
        text: [line for line in problems if text in line and f"{path}:{at}: " in line]
        for text, at in expected.items()
    }
    assert {text: len(lines) for text, lines in found.items()} == dict.fromkeys(expected, 1), problems
    assert len(problems) == len(expected), problems
    assert "planted" not in result.output


def test_check_reports_wrong_quotas_and_unknown_providers(config: str) -> None:
    environ = {"PIXMILL_CREDENTIALS__NEW__PROVIDER": "opneai", "PIXMILL_QUOTAS__NEW__IMAGES": "lots"}
    result = run(config_app, ["check", "--json", "--config", config], env=environ)
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["ok"] is False
    assert "new" in document["problems"][0]
    assert '"opneai"' in document["problems"][1]


def test_check_notes_routes_of_one_account_without_a_common_quota(config: str) -> None:
    with Path(config).open("a") as file:
        file.write('[routes.free]\ncredential = "openai-main"\nmodel = "gpt-image-2"\n')
    result = run(config_app, ["check", "--config", config], env={"OPENAI_API_KEY": "sk-planted"})
    assert result.exit_code == 0
    assert "note: the routes of the account in OPENAI_API_KEY have no quota in common" in result.stdout
    assert "sk-planted" not in result.output


@pytest.mark.parametrize(
    ("secrets", "names"),
    [
        (
            'secret_id_env = "SHOP_ID"\nsecret_key_env = "SHOP_KEY"\n',
            r"The environment variable SHOP_KEY \(`secret_key_env`\) is not set or empty",
        ),
        (
            'secret_id_env = "SHOP_ID"\n',
            "needs the secret `secret_key`.*: write `secret_key_env` with the name",
        ),
    ],
)
def test_a_missing_key_of_hunyuan_is_named_with_its_variable(
    tmp_path: Path, secrets: str, names: str
) -> None:
    path = tmp_path / "pixmill.toml"
    path.write_text(
        f'[credentials.shop]\nprovider = "hunyuan"\n{secrets}'
        '[routes.default]\ncredential = "shop"\nmodel = "hunyuan-image-3.0"\n'
    )
    environ = {"SHOP_ID": "AKIDplanted"}
    result = run(config_app, ["check", "--config", str(path)], env=environ)
    assert re.search(rf"credentials\.shop: .*{names}", result.output), result.output
    with pytest.raises(SettingsError, match=rf"credentials\.shop: .*{names}"):
        build_routes(load_settings(path, environ={}).settings, environ)


@pytest.mark.parametrize(
    ("name", "value"), [("SSL_CERT_FILE", "/no/such/ca.pem"), ("ALL_PROXY", "socks://127.0.0.1:7890")]
)
def test_check_names_a_variable_that_no_call_could_be_made_with(config: str, name: str, value: str) -> None:
    result = run(config_app, ["check", "--config", config], env={"OPENAI_API_KEY": "sk-planted", name: value})
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{name} is {value}")
    assert len(result.stderr.splitlines()) == 1
    with pytest.raises(SettingsError, match=f"^{name} is {value}"):
        build_routes(load_settings(Path(config), environ={}).settings, {name: value})


@pytest.mark.parametrize("key", ["'sk-planted'", '"sk-planted"', "Bearer sk-planted"])
def test_check_finds_a_key_that_was_written_with_more_than_itself(config: str, key: str) -> None:
    result = run(config_app, ["check", "--config", config], env={"OPENAI_API_KEY": key})
    assert result.exit_code == 2
    assert f"{config}:14: credentials.openai-main: The secret `api_key`" in result.stderr
    assert "planted" not in result.output


def test_print_shows_every_value_and_where_it_comes_from(config: str) -> None:
    result = run(config_app, ["print", "--config", config], env={"PIXMILL_WORKER__LEASE": "90s"})
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert rows["worker.lease"].split(maxsplit=1)[1] == rows["worker.lease"].split(maxsplit=1)[1].lstrip()
    assert rows["worker.lease"].endswith("environment PIXMILL_WORKER__LEASE")
    assert " 90s " in rows["worker.lease"]
    assert rows["redis.url"].split()[1] == "redis://worker:***@cache.example:6379/0"
    assert rows["redis.url"].endswith(f"{config}:3")
    assert rows["metrics.listen"].split()[1:] == ["127.0.0.1:9108", "default"]
    assert rows["quotas.openai-main.images"].split()[1] == "20/min"


def test_print_as_json_is_one_document_without_secrets(config: str) -> None:
    result = run(config_app, ["print", "--json", "--config", config])
    document = json.loads(result.stdout)
    assert document["worker.drain_timeout"]["value"] == "2min"
    assert document["network.allow_hosts"]["value"] == ["minio.internal"]
    assert document["quotas.openai-main.requests"]["value"] == {"rate": "50/min", "burst": 5}
    assert "hunter2" not in result.output


def test_older_names_alone_make_a_working_account_at_modelscope(tmp_path: Path) -> None:
    path = tmp_path / "pixmill.toml"
    path.write_text(
        """
        [credentials.zimage-main]
        provider = "zimage"
        [routes.previews]
        credential = "zimage-main"
        model = "Tongyi-MAI/Z-Image-Turbo"
        """
    )
    environ = {"MODELSCOPE_API_KEY": "ms-planted-secret", "ZIMAGE_BATCH_DELAY": "2.0"}
    result = run(config_app, ["check", "--config", str(path)], env=environ)
    assert result.exit_code == 0, result.output
    assert "note:" not in result.stdout
    assert "1 routes, 1 credentials, 1 quotas" in result.stdout
    assert "ms-planted-secret" not in result.output
    routes = build_routes(load_settings(path, environ=environ, offers=[alias_source]).settings, environ)
    route = routes["previews"]
    assert route.provider.name == "zimage"
    assert route.quotas == (Quota("zimage-main", (Window(1, 2_000_000),)),)
    job = {"id": "a", "prompt": "a mug", "route": "previews", "size": "16:9", "seed": 0}
    routes.check(Job.model_validate(job))
    assert "ms-planted-secret" not in repr(route)


HUNYUAN = """
[credentials.hunyuan-main]
provider = "hunyuan"
wire = "tc3"
region = "ap-guangzhou"
secret_id_env = "HUNYUAN_SECRET_ID"
secret_key_env = "HUNYUAN_SECRET_KEY"
[quotas.hunyuan-main]
preset = "tencent-hunyuan"
[routes.default]
credential = "hunyuan-main"
model = "hunyuan-image-3.0"
quotas = ["hunyuan-main"]
"""
HUNYUAN_SECRETS = {"HUNYUAN_SECRET_ID": "AKIDplanted0123456789", "HUNYUAN_SECRET_KEY": "planted-key"}


@pytest.mark.parametrize("names_its_secrets", [True, False])
def test_a_hunyuan_account_works_with_the_older_names_of_its_secrets(
    tmp_path: Path, names_its_secrets: bool
) -> None:
    lines = [line for line in HUNYUAN.splitlines() if names_its_secrets or "_env" not in line]
    path = tmp_path / "pixmill.toml"
    path.write_text("\n".join(lines))
    result = run(config_app, ["check", "--config", str(path)], env=HUNYUAN_SECRETS)
    assert result.exit_code == 0
    assert "OK: " in result.stdout
    assert "note" not in result.stdout
    settings = load_settings(
        path, environ={**HUNYUAN_SECRETS, "HUNYUAN_MAX_CONCURRENT": "2"}, offers=[alias_source]
    ).settings
    (route,) = build_routes(settings, HUNYUAN_SECRETS).values()
    assert route.provider.name == "hunyuan"
    assert route.provider.capabilities(route.model).mode == "task"
    assert settings.quotas["hunyuan-main"]["in_flight"] == 2
    assert "planted" not in result.output + repr(route) + repr(route.provider)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('wire = "tc4"', "one of tc3, tokenhub_async, tokenhub_sync"),
        ('wire = "tokenhub_sync"', "has no regions"),
        ('options = { revize = "true" }', "Did you mean 'revise'"),
    ],
)
def test_check_reports_what_a_provider_refuses_in_a_credential(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "pixmill.toml"
    path.write_text(HUNYUAN.replace('wire = "tc3"', line))
    result = run(config_app, ["check", "--config", str(path)], env=HUNYUAN_SECRETS)
    assert result.exit_code == 2
    assert "credentials.hunyuan-main: " in result.stderr
    assert says in result.stderr
    assert "planted" not in result.output


def test_check_refuses_a_bad_webhook_secret_and_notes_a_missing_one(config: str) -> None:
    result = run(config_app, ["check", "--config", config], env={"HOOK_SECRET": "planted-without-prefix"})
    assert result.exit_code == 2
    assert "webhooks.main: This does not begin with `whsec_`" in result.stderr
    assert "planted-without-prefix" not in result.output
    result = run(config_app, ["check", "--config", config], env={"HOOK_SECRET": ""})
    assert result.exit_code == 0
    assert "note: webhooks.main: The environment variable HOOK_SECRET" in result.stdout
