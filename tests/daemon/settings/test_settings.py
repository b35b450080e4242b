"""The configuration: every source in its order, every problem with its place, and no secret in sight."""

# ruff: noqa: E501 - the tables below pair a file with the whole sentence that it causes

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from daemon.settings import LoadedSettings, SettingsError, load_settings

WHOLE = """
[redis]
url = "redis://worker:hunter2@cache.example:6379/0"   # the password is masked wherever it is shown
prefix = "{pixmill}"
[worker]
max_in_flight = 10
drain_timeout = "2min"
lease = "500ms"
[retention]
[network]
allow_hosts = ["minio.internal"]
max_input_bytes = "5MiB"

[credentials.openai-main]
provider = "openai"
base_url = "https://api.openai.com/v1/"
api_key_env = "OPENAI_API_KEY"
[credentials.hunyuan-main]
provider = "hunyuan"
wire = "tc3"
region = "ap-guangzhou"
secret_id_env = "TENCENT_ID"
secret_key_file = "/run/secrets/tencent"

[quotas.openai-main]
images = "20/min"
requests = { rate = "50/min", burst = 5 }
in_flight = 8
[quotas.hunyuan-main]
preset = "tencent-hunyuan"

[routes.default]
credential = "openai-main"
model = "gpt-image-2"
quotas = ["openai-main"]
[routes.previews]
credential = "hunyuan-main"
model = "hunyuan-image"
quotas = ["hunyuan-main"]
provider_timeout = "90s"

[webhooks.main]
secret_env = "HOOK_SECRET"
""".replace('lease = "500ms"', 'lease = "1500ms"')

Load = Callable[..., LoadedSettings]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a text as ./pixmill.toml of an empty directory, with an empty environment."""
    monkeypatch.chdir(tmp_path)

    def load_text(
        text: str = "",
        environ: Mapping[str, str] | None = None,
        overrides: Mapping[str, object] | None = None,
    ) -> LoadedSettings:
        (tmp_path / "pixmill.toml").write_text(text)
        return load_settings(environ=environ or {}, overrides=overrides or {})

    return load_text


def problems(load: Load, *args: Any, **named: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(*args, **named)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_no_configuration_at_all_is_the_documented_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_settings(environ={})
    settings = loaded.settings
    assert (settings.redis.url, settings.redis.prefix) == (None, "pixmill")
    worker = settings.worker
    assert (worker.max_in_flight, worker.drain_timeout, worker.lease) == (64, 120, 15)
    assert settings.storage.url.reveal() == f"file://{tmp_path}/.pixmill/images"
    retention = settings.retention
    assert (retention.records, retention.failed_records) == (86400, 7 * 86400)
    assert (settings.metrics.listen, settings.gateway.studio_route) == ("127.0.0.1:9108", "studio")
    assert (settings.network.allow_hosts, settings.network.max_input_bytes) == ([], 25 * 1024**2)
    assert loaded.source("worker.lease") == "default"
    assert loaded.file is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:9200/v1", "http://localhost/v1", "http://[::1]:9200/v1"])
def test_pictures_of_a_simulator_here_may_be_kept_in_memory(load: Load, url: str) -> None:
    text = f"[storage]\nurl = 'memory://'\n[credentials.a]\nprovider = 'openai'\nbase_url = '{url}'\n"
    assert load(text).settings.storage.url.reveal() == "memory://"


def test_the_documented_file_is_read(load: Load) -> None:
    settings = load(WHOLE).settings
    assert settings.worker.lease == 1.5
    assert settings.network.max_input_bytes == 5 * 1024**2
    assert settings.credentials["openai-main"].base_url == "https://api.openai.com/v1"
    assert settings.credentials["hunyuan-main"].provider_options() == {
        "wire": "tc3",
        "region": "ap-guangzhou",
    }
    assert settings.routes["previews"].provider_timeout == 90
    assert settings.routes["default"].provider_timeout == 180
    assert set(settings.parsed_quotas()) == {"openai-main", "hunyuan-main"}


def test_pictures_are_kept_and_a_file_may_say_so(load: Load) -> None:
    assert load('[retention]\nmedia = "keep"\n').settings.retention == load("").settings.retention


def test_flags_go_before_environment_before_file_before_defaults(load: Load) -> None:
    loaded = load(
        '[worker]\nmax_in_flight = 10\nlease = "20s"\ndrain_timeout = "1s"\n[redis]\nprefix = "file"\n',
        {"PIXMILL_WORKER__LEASE": "30s", "PIXMILL_WORKER__DRAIN_TIMEOUT": "2s"},
        {"worker.drain_timeout": "3s", "redis.url": "redis://flag", "redis.prefix": None},
    )
    worker, redis = loaded.settings.worker, loaded.settings.redis
    assert (worker.max_in_flight, worker.lease, worker.drain_timeout) == (10, 30, 3)
    assert (redis.prefix, redis.url) == ("file", "redis://flag")
    assert {key: loaded.source(key) for key in ("worker.max_in_flight", "worker.lease", "redis.url")} == {
        "worker.max_in_flight": "pixmill.toml:2",
        "worker.lease": "environment PIXMILL_WORKER__LEASE",
        "redis.url": "flag --redis-url",
    }
    assert loaded.source("worker.drain_timeout") == "flag --worker-drain-timeout"
    assert loaded.source("redis.prefix") == "pixmill.toml:6"
    assert loaded.source("metrics.listen") == "default"


def test_a_value_over_several_lines_has_the_line_of_its_beginning(load: Load) -> None:
    loaded = load(WHOLE.replace('["minio.internal"]', '[\n  "a.example",\n  "b.example",\n]'))
    lines = Path("pixmill.toml").read_text().splitlines()
    for key, begins in (
        ("network.allow_hosts", "allow_hosts ="),
        ("quotas.openai-main.requests", "requests ="),
        ("routes.previews.provider_timeout", "provider_timeout ="),
    ):
        number = int(loaded.source(key).removeprefix("pixmill.toml:"))
        assert lines[number - 1].startswith(begins)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_separator_inside_a_comment_moves_no_line_number(load: Load, separator: str) -> None:
    loaded = load(f"# a{separator}b\n[worker]\nlease = '30s'\n")
    assert loaded.source("worker.lease") == "pixmill.toml:3"


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml does not exist"):
        load_settings(tmp_path / "missing.toml", environ={})


def test_a_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[worker]\nmax_in_flight = 3\n")
    environ = {"PIXMILL_CONFIG": str(tmp_path / "other.toml")}
    assert load_settings(environ=environ).settings.worker.max_in_flight == 3


@pytest.mark.parametrize("text", ["[worker\n", "a = \n", 'lease = "1s"\nlease = "2s"\n'])
def test_a_file_that_is_no_toml_is_reported_with_its_line(load: Load, text: str) -> None:
    (problem,) = problems(load, text)
    assert "pixmill.toml: this is not TOML" in problem
    assert "line" in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[worker]\nmax_inflight = 3\n", "pixmill.toml:2: `worker.max_inflight` is not a known setting; did you mean `max_in_flight`?"),
        ("[workers]\nlease = '1s'\n", "pixmill.toml:1: `workers` is not a known setting; did you mean `worker`?"),
        ("lease = '1s'\n", "pixmill.toml:1: `lease` is not a known setting;"),
        ("[credentials.a]\nprovider = 'openai'\nbase_ulr = 'x'\n", "pixmill.toml:3: `credentials.a.base_ulr` is not a known setting; did you mean `base_url`?"),
        ("[routes.a]\ncredential = 'c'\nmodel = 'm'\nquota = ['q']\n", "pixmill.toml:4: `routes.a.quota` is not a known setting; did you mean `quotas`?"),
        ("[routes.a]\ncredential = 'c'\n", "pixmill.toml:1: `routes.a.model` is missing."),
        ("[worker]\nlease = '15x'\n", 'pixmill.toml:2: `worker.lease` must be a duration such as "500ms"'),
        ("[worker]\nlease = '-1s'\n", "pixmill.toml:2: `worker.lease` must be a duration"),
        ("[worker]\nlease = '1ms'\n", "pixmill.toml:2: `worker.lease` must be greater than or equal to 1"),
        ("[worker]\nmax_in_flight = 0\n", "pixmill.toml:2: `worker.max_in_flight` must be greater than or equal to 1"),
        ("[worker]\nmax_in_flight = 'many'\n", "pixmill.toml:2: `worker.max_in_flight` must be a valid integer"),
        ("[retention]\nmedia = '30d'\n", "pixmill.toml:2: `retention.media` must be 'keep'."),
        ("[routes.a]\ncredential = 'c'\nmodel = 'm'\nfallback = ['b']\n", 'pixmill.toml:4: `routes.a.fallback` names a route "b" that is not configured; none is.'),
        ("[routes.a]\nany = ['b']\n", 'pixmill.toml:2: `routes.a.any` names a route "b" that is not configured; none is.'),
        ("[routes.a]\nany = ['a']\n", 'pixmill.toml:2: `routes.a.any` names its own route "a"; name another one.'),
        ("[routes.a]\nany = ['b']\nmodel = 'm'\n[routes.b]\ncredential = 'c'\nmodel = 'm'\n", "pixmill.toml:3: `routes.a.model` is set beside `any`: the routes that it names have their own."),
        ("[routes.a]\nany = ['b']\n[routes.b]\ncredential = 'c'\nmodel = 'm'\n", 'pixmill.toml:2: `routes.a.any` names "b", which has no quota;'),
        ("[routes.a]\nany = ['b', 'b']\n[routes.b]\ncredential = 'c'\nmodel = 'm'\n", 'pixmill.toml:2: `routes.a.any` names "b" twice; keep one of them.'),
        ("[routes.a]\nany = ['b']\n[routes.b]\nany = ['c']\n", 'pixmill.toml:2: `routes.a.any` names "b", which has `any` itself; name the routes of that.'),
        ("[credentials.c]\nprovider = 'openai'\n[routes.a]\nany = ['b', 'd']\n[routes.b]\ncredential = 'c'\nmodel = 'm'\n[routes.d]\ncredential = 'c'\nmodel = 'n'\n", "pixmill.toml:4: `routes.a.any` names routes that make different pictures (`b`: openai, m; `d`: openai, n); equals have one provider, protocol and model."),
        ("[credentials.c]\nprovider = 'openai'\n[routes.a]\ncredential = 'c'\nmodel = 'm'\nfallback = ['b']\n[routes.b]\ncredential = 'c'\nmodel = 'm'\n", "pixmill.toml:6: `routes.a.fallback` needs a quota of its route:"),
        ("[credentials.c]\nprovider = 'openai'\n[quotas]\nq = {in_flight = 1}\n[routes.b]\ncredential = 'c'\nmodel = 'm'\nquotas = ['q']\n[routes.a]\nany = ['b']\nfallback = ['b']\n", 'pixmill.toml:11: `routes.a.fallback` names "b", which is in `any`, too; keep one of them.'),
        ("[credentials.c]\nprovider = 'openai'\n[quotas]\nq = {in_flight = 1}\n[routes.b]\ncredential = 'c'\nmodel = 'm'\n[routes.d]\ncredential = 'c'\nmodel = 'm'\n[routes.a]\ncredential = 'c'\nmodel = 'm'\nquotas = ['q']\nfallback = ['b', 'd']\n", 'pixmill.toml:15: `routes.a.fallback` names "b" before another spare, and it has no quota;'),
        ("[routes.a]\nany = ['b']\nprovider_timeout = '60s'\n[routes.b]\ncredential = 'c'\nmodel = 'm'\n", "pixmill.toml:3: `routes.a.provider_timeout` is set beside `any`: the routes that it names have their own."),
        ("[network]\nmax_input_bytes = '25 potatoes'\n", "pixmill.toml:2: `network.max_input_bytes` must be a size"),
        ("[redis]\nurl = 'rediss://h?ssl_cert_reqs=CERT_NONE'\n", "pixmill.toml:2: `redis.url` must be an address whose options are known and take their values; after the `?` it has `ssl_cert_reqs`."),
        ("[redis]\nurl = 'redis://h?foo=1'\n", "pixmill.toml:2: `redis.url` must be an address whose options are known and take their values; after the `?` it has `foo`."),
        ("[redis]\nurl = 'rediss://h?ssl_ca_certs=/nowhere.crt'\n", "pixmill.toml:2: `redis.url` must be an address whose `ssl_ca_certs` names a file that is there."),
        ("[redis]\nurl = 'http://x'\n", "pixmill.toml:2: `redis.url` must be a URL that begins with redis://"),
        ("[redis]\nprefix = 'a b'\n", "pixmill.toml:2: `redis.prefix` must be 1 to 64 letters"),
        ("[storage]\nurl = '/var/lib'\n", "pixmill.toml:2: `storage.url` must be a URL that begins with file://"),
        ("[storage]\nurl = 'file://images'\n", "pixmill.toml:2: `storage.url` must be a whole path behind three slashes, such as file:///srv/images"),
        ("[storage]\nurl = 'memory://'\n[credentials.a]\nprovider = 'openai'\n", "pixmill.toml:2: `storage.url` is memory://, which ends with the process, and `credentials.a` is a real account"),
        ("[storage]\nurl = 'memory://'\n[credentials.a]\nprovider = 'openai'\nbase_url = 'http://10.0.0.1/v1'\n", "pixmill.toml:2: `storage.url` is memory://"),
        ("[metrics]\nlisten = '9108'\n", "pixmill.toml:2: `metrics.listen` must be an address such as"),
        ("[metrics]\nlisten = 'a:99999'\n", "pixmill.toml:2: `metrics.listen` must be an address such as"),
        ("[gateway]\nlisten = '0.0.0.0:8080'\n", "pixmill.toml:2: `gateway.listen` would serve other machines without keys:"),
        ("[webhooks.a]\n", "pixmill.toml:1: `webhooks.a` needs `secret_env` or `secret_file`."),
        ("[credentials.a]\nprovider = 'x'\napi_key_env = 'A'\napi_key_file = 'b'\n", "pixmill.toml:4: `credentials.a.api_key_file` is set beside `api_key_env`: keep one of them."),
        ("worker = 3\n", "pixmill.toml:1: `worker` must be a valid dictionary"),
        ("[routes]\ndefault = 'openai'\n", "pixmill.toml:2: `routes.default` must be a valid dictionary"),
    ],
)  # fmt: skip
def test_a_problem_is_a_sentence_with_its_place(load: Load, text: str, problem: str) -> None:
    found = problems(load, text)
    assert any(each.startswith(problem) for each in found), found


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('credential = "openai-main"', 'credential = "openai-man"', "`routes.default.credential` names a credential \"openai-man\" that is not configured; did you mean `openai-main`?"),
        ('quotas = ["openai-main"]', 'quotas = ["openai"]', "`routes.default.quotas` names a quota \"openai\" that is not configured; did you mean `openai-main`?"),
    ],
)  # fmt: skip
def test_a_route_may_only_use_configured_names(load: Load, old: str, new: str, problem: str) -> None:
    (found,) = problems(load, WHOLE.replace(old, new))
    assert found.endswith(problem)
    assert found.startswith("pixmill.toml:")


def test_all_problems_are_reported_together(load: Load) -> None:
    found = problems(
        load,
        "[worker]\nlease = 'x'\nmax_inflight = 1\n[redis]\nurl = 3\n",
        {"PIXMILL_WORKR__LEASE": "1s", "PIXMILL_GATEWAY__LISTEN": "x", "HUNYUAN_MAX_CONCURRENT": "9"},
    )
    assert len(found) == 5


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("PIXMILL_WORKR__LEASE", "1s", "environment PIXMILL_WORKR__LEASE: there is no section `workr`; did you mean `worker`?"),
        ("PIXMILL_REDIS_URL", "redis://h", "environment PIXMILL_REDIS_URL: there is no section `redis_url`; did you mean `redis`?"),
        ("PIXMILL_WORKER__LEASES", "1s", "environment PIXMILL_WORKER__LEASES: `worker.leases` is not a known setting; did you mean `lease`?"),
        ("PIXMILL_WORKER__LEASE", "1 parsec", "environment PIXMILL_WORKER__LEASE: `worker.lease` must be a duration"),
        ("PIXMILL_GATEWAY", "{", "environment PIXMILL_GATEWAY: a whole table is written as JSON"),
        ("PIXMILL_GATEWAY", "8080", "environment PIXMILL_GATEWAY: a whole table is written as JSON"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named(load: Load, name: str, value: str, problem: str) -> None:
    (found,) = problems(load, "", {name: value})
    assert found.startswith(problem)


def test_variables_of_a_kubernetes_service_are_not_ours(load: Load) -> None:
    environ = {
        "PIXMILL_PORT": "tcp://10.0.0.7:80",
        "PIXMILL_SERVICE_HOST": "10.0.0.7",
        "PIXMILL_SERVICE_PORT_HTTP": "80",
        "PIXMILL_GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.8",
        "PIXMILL_GATEWAY_SERVICE_HOST": "10.0.0.8",
        "PIXMILLION": "1",
    }
    assert load("", environ).sources == {}


def test_the_variables_of_a_producer_are_no_settings(load: Load) -> None:
    environ = {"PIXMILL_KEY": "pxm-planted", "PIXMILL_GATEWAY_URL": "https://pixmill.example"}
    assert load("", environ).sources == {}


def test_the_environment_reaches_every_depth(load: Load) -> None:
    environ = {
        "PIXMILL_CREDENTIALS__OPENAI_MAIN__REGION": "eu",
        "PIXMILL_CREDENTIALS__NEW__PROVIDER": "openai",
        "PIXMILL_CREDENTIALS__NEW__API_KEY_ENV": "NEW_KEY",
        "PIXMILL_QUOTAS__OPENAI_MAIN__IN_FLIGHT": "4",
        "PIXMILL_QUOTAS__OPENAI_MAIN__REQUESTS": '{"rate": "5/s", "burst": 2}',
        "PIXMILL_NETWORK__ALLOW_HOSTS": "a.example, b.example",
        "PIXMILL_RETENTION": '{"records": "2h"}',
    }
    loaded = load(WHOLE, environ)
    settings = loaded.settings
    assert settings.credentials["openai-main"].region == "eu"
    assert settings.credentials["new"].api_key_env == "NEW_KEY"
    assert settings.quotas["openai-main"]["in_flight"] == 4
    assert settings.quotas["openai-main"]["requests"] == {"rate": "5/s", "burst": 2}
    assert settings.network.allow_hosts == ["a.example", "b.example"]
    assert settings.retention.records == 7200
    source = loaded.source("quotas.openai-main.in_flight")
    assert source == "environment PIXMILL_QUOTAS__OPENAI_MAIN__IN_FLIGHT"
    assert loaded.source("retention.records") == "environment PIXMILL_RETENTION"
    assert "openai-main" in settings.parsed_quotas()


@pytest.mark.parametrize("first", ["PIXMILL_RETENTION", "PIXMILL_RETENTION__RECORDS"])
def test_a_single_variable_goes_over_that_of_its_table_in_any_order(load: Load, first: str) -> None:
    environ = {
        "PIXMILL_RETENTION": '{"records": "2h", "failed_records": "3h"}',
        "PIXMILL_RETENTION__RECORDS": "1h",
    }
    ordered = {first: environ[first], **environ}
    retention = load("", ordered).settings.retention
    assert (retention.records, retention.failed_records) == (3600, 10_800)


def test_braces_that_are_no_table_stay_text(load: Load) -> None:
    assert load("", {"PIXMILL_REDIS__PREFIX": "{pixmill}"}).settings.redis.prefix == "{pixmill}"


def test_all_wrong_quotas_are_reported_together(load: Load) -> None:
    settings = load("[quotas.a]\nimages = 'lots'\n[quotas.b]\nrequests = 'many'\n").settings
    with pytest.raises(SettingsError) as caught:
        settings.parsed_quotas()
    first, second = caught.value.problems
    assert first.startswith("pixmill.toml:2: quota 'a', field 'images': ")
    assert second.startswith("pixmill.toml:4: quota 'b', field 'requests': ")


@pytest.mark.parametrize("name", ["api_key", "secret_id", "secret_key"])
@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_secret_itself_is_refused_with_the_key_to_use_instead(load: Load, name: str, place: str) -> None:
    if place == "file":
        found = problems(load, f"[credentials.a]\nprovider = 'openai'\n{name} = 'sk-planted'\n")
    else:
        variable = f"PIXMILL_CREDENTIALS__A__{name.upper()}"
        found = problems(load, "[credentials.a]\nprovider = 'openai'\n", {variable: "sk-planted"})
    assert len(found) == 1
    assert f"write `{name}_env`" in found[0]
    assert "sk-planted" not in found[0]


def test_a_secret_in_the_place_of_a_variables_name_is_not_repeated(load: Load) -> None:
    (found,) = problems(load, "[credentials.a]\nprovider = 'openai'\napi_key_env = 'sk-planted'\n")
    assert "must be the name of an environment variable" in found
    assert "sk-planted" not in found


def test_credentials_resolve_from_environment_and_file(load: Load, tmp_path: Path) -> None:
    (tmp_path / "tencent").write_text("from-file\n")
    text = WHOLE.replace("/run/secrets/tencent", str(tmp_path / "tencent"))
    settings = load(text).settings
    credential = settings.credentials["hunyuan-main"]
    assert credential.resolve({"TENCENT_ID": "from-env"}) == {
        "secret_id": "from-env",
        "secret_key": "from-file",
    }
    assert settings.webhooks["main"].resolve({"HOOK_SECRET": "whsec_x"}) == "whsec_x"


def test_every_missing_secret_is_named(load: Load) -> None:
    credential = load(WHOLE).settings.credentials["hunyuan-main"]
    with pytest.raises(SettingsError) as caught:
        credential.resolve({"TENCENT_ID": " "})
    first, second = caught.value.problems
    assert "environment variable TENCENT_ID" in first
    assert "/run/secrets/tencent" in second
    assert "No such file" in second


@pytest.mark.parametrize(
    "url",
    [
        "redis://worker:hunter2@h:6379/0",
        "rediss://:hunter2@h",
        "redis://hunter2@h/0",
        "redis://u:p@hunter2@x@h/0",
        "unix:///tmp/redis.sock?password=hunter2",
    ],
)
def test_the_password_of_redis_is_never_shown(load: Load, url: str, caplog: pytest.LogCaptureFixture) -> None:
    settings = load(f'[redis]\nurl = "{url}"\n').settings
    logging.getLogger("test").warning("connecting to %s of %r", settings.redis.url, settings)
    shown = f"{settings.redis.url} {settings!r} {settings} {settings.model_dump_json()} {caplog.text}"
    assert "hunter2" not in shown
    assert settings.redis.url is not None
    assert settings.redis.url.reveal() == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2/et@h",
        "redis://u:hunter2#x@h",
        "redis://u:hunter2?x@h",
        "redis://:12/hunter2@h",
        "redis://:12#hunter2@h",
        "redis://:12?hunter2@h",
        "redis://hunter2/x@h",
        "redis://h:hunter2/0",
        "redis://h:99999/0",
        "redis://h/hunter2",
        "redis://h?db=hunter2",
        "redis://[h",
        "redis+sentinel://hunter2/shop@h/shop",
        "redis+sentinel://:hunter2@s1,s2",
        "redis+sentinel://:hunter2@s1:99999/shop",
        "redis+sentinel://:hunter2@s1/shop/x",
        "redis+sentinel://s1/shop?x=hunter2@y",
        "redis+cluster://:hunter2@a,,b",
        "redis+cluster://:hunter2@a/1",
        "redis+cluster://:hunter2#x@a",
        "unix:///tmp/s?db=hunter2",
    ],
)
def test_a_redis_url_that_would_be_misread_is_refused_without_its_value(load: Load, url: str) -> None:
    """Otherwise a part of the password would become the host or the port, which errors show."""
    (found,) = problems(load, f'[redis]\nurl = "{url}"\n')
    scheme = "redis" if url.startswith("unix") else url.partition("://")[0]
    assert found.startswith(f"pixmill.toml:2: `redis.url` must be {scheme}://[user:password@]host")
    assert "%2F" in found
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://h/",
        "rediss://u:a%2Fb%40c@[::1]:6380/15?socket_timeout=3",
        "redis+sentinel://u:a%2Fb@s1:26379,s2,[::1]:5/shop/3?sentinel_password=p%40",
        "rediss+sentinel://s1/shop",
        "unix:///run/redis.sock?db=2",
    ],
)
def test_a_redis_url_that_is_right_is_kept_as_it_is(load: Load, url: str) -> None:
    settings = load(f'[redis]\nurl = "{url}"\n').settings
    assert settings.redis.url is not None
    assert settings.redis.url.reveal() == url


def test_a_prefix_whose_keys_share_no_slot_is_refused_on_a_cluster(load: Load) -> None:
    text = '[redis]\nurl = "redis+cluster://a:7000,b"\nprefix = "{shop}"\n'
    assert load(text).settings.redis.prefix == "{shop}"
    (found,) = problems(load, text.replace("{shop}", "shop"))
    assert found == (
        "pixmill.toml:3: `redis.prefix` must stand in braces on a cluster, or its keys share no slot: "
        'write "{shop}".'
    )
    (found,) = problems(load, '[redis]\nurl = "redis+cluster://a:7000,b"\n')
    assert found.endswith('write "{pixmill}".')


def test_a_wrong_flag_has_the_name_that_was_typed(load: Load) -> None:
    with pytest.raises(SettingsError) as caught:
        load("", {}, {"metrics.listen": "x", "redis.prefix": "a b", "redis.url": "x"})
    assert sorted(problem.partition(":")[0] for problem in caught.value.problems) == [
        "flag --metrics",
        "flag --prefix",
        "flag --redis-url",
    ]
