"""The deployment files agree with each other, with the settings, and with the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pytest

from daemon.broker.embedded import HASH_VALUE_BYTES
from daemon.gateway.callers.keys_file import read_keys
from daemon.settings import Settings, load_settings
from limiter.quota.quota import InFlight, Window
from tests.deploy.files import DASHBOARD, DEPLOY, ROOT, alerts, dashboard, panels, read_yaml

COMPOSE: dict[str, Any] = read_yaml(ROOT / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def settings() -> Settings:
    """The configuration as a worker of the composition reads it."""
    environ = {name: resolved(value) for name, value in SERVICES["worker"]["environment"].items()}
    environ |= worker_env()
    loaded = load_settings(DEPLOY / "pixmill.toml", environ=environ)
    for credential in loaded.settings.credentials.values():
        assert credential.resolve(environ)
    return loaded.settings


@cache
def secrets() -> dict[str, str]:
    """The files that `make secrets` writes."""
    with TemporaryDirectory() as directory:
        for _ in range(2):  # the second time must change nothing
            subprocess.run(["sh", DEPLOY / "secrets.sh", directory], check=True)
            made = {path.name: path.read_text() for path in Path(directory).iterdir()}
    return made


def worker_env() -> dict[str, str]:
    assert SERVICES["worker"]["env_file"] == ["deploy/secrets/worker.env"]
    name, _, value = secrets()["worker.env"].strip().partition("=")
    return {name: value}


def resolved(value: str) -> str:
    """`${NAME:-default}` where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def mounts(service: str) -> dict[str, str]:
    """The mounted files, by their path in the container."""
    return {parts[1]: parts[0] for parts in (volume.split(":") for volume in SERVICES[service]["volumes"])}


def instructions(name: str) -> list[str]:
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.partition(" ")[2].strip() for line in joined.splitlines() if line.split(" ")[0] == name]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_everything_that_compose_mounts_or_builds_exists() -> None:
    for name in SERVICES:
        for source in mounts(name).values() if "volumes" in SERVICES[name] else ():
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    for service in OURS.values():
        assert (ROOT / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_services_of_one_build_share_no_tag() -> None:
    assert len(OURS) == 3
    assert not any("image" in service for service in OURS.values())


def test_the_workers_read_a_valid_configuration() -> None:
    config = settings()
    worker = SERVICES["worker"]
    assert worker["deploy"]["replicas"] == 2
    assert worker["command"] == ["worker", "--config", "/etc/pixmill/pixmill.toml"]
    assert mounts("worker")["/etc/pixmill/pixmill.toml"] == "./deploy/pixmill.toml"
    assert config.redis.url is not None
    assert config.redis.url.reveal() == f"redis://pixmill-worker:{secrets()['redis_worker']}@redis:6379/0"
    assert set(config.routes) == {"default", config.gateway.slide_route, config.gateway.studio_route}


def test_a_stop_leaves_time_to_drain() -> None:
    assert seconds(SERVICES["worker"]["stop_grace_period"]) > settings().worker.drain_timeout + 10


def test_images_go_to_a_volume_that_all_replicas_share_and_that_they_own() -> None:
    path = urlsplit(str(settings().storage.url)).path
    assert mounts("worker")[path] in COMPOSE["volumes"]
    assert f"install -d -o pixmill -g pixmill {path}" in DOCKERFILE


def test_the_simulator_allows_exactly_what_the_quota_says() -> None:
    config = settings()
    command = SERVICES["simulator"]["command"]
    flags = dict(zip(command[1::2], command[2::2], strict=True))
    assert urlsplit(str(config.credentials["simulated"].base_url)).netloc == f"simulator:{flags['--port']}"
    quota = config.parsed_quotas()["simulated"]
    count, period_s = flags["--images"].removesuffix("s").split("/")
    assert set(quota.limits) == {
        Window(int(count), int(period_s) * 1_000_000, "images"),
        InFlight(int(flags["--in-flight"])),
    }


def test_prometheus_finds_workers_and_gateways_where_they_listen() -> None:
    listen = settings().metrics.listen
    scrapes = read_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    found = [(scrape["job_name"], *scrape["dns_sd_configs"]) for scrape in scrapes]
    assert [(job, place["names"], place["port"]) for job, place in found] == [
        ("pixmill", ["worker"], listen.port),
        ("pixmill-gateway", ["gateway"], listen.port),
    ]
    assert listen.host == "0.0.0.0"
    assert f"http://127.0.0.1:{listen.port}/healthz" in instructions("HEALTHCHECK")[0]


def test_nothing_is_published_beyond_this_machine() -> None:
    published = {port for service in SERVICES.values() for port in service.get("ports", ())}
    assert published == {
        "127.0.0.1:3000:3000",
        "127.0.0.1:9090:9090",
        "127.0.0.1:6379:6379",
        "127.0.0.1:8080:8080",
    }


def test_the_gateway_knows_no_secret_of_a_provider() -> None:
    gateway = SERVICES["gateway"]
    assert gateway["command"] == ["gateway", "--config", "/etc/pixmill/pixmill.toml"]
    assert gateway["env_file"] == SERVICES["worker"]["env_file"], "it accepts and orders as the worker's user"
    assert set(gateway["environment"]) == {"PIXMILL_CONFIG"}
    variables = {credential.api_key_env for credential in settings().credentials.values()}
    assert variables == {"OPENAI_API_KEY"} <= set(SERVICES["worker"]["environment"])


def test_the_gateway_is_reached_on_this_machine_with_a_key() -> None:
    listen, keys = settings().gateway.listen, settings().gateway.keys_file
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:{listen.port}:{listen.port}"]
    assert listen.host == "0.0.0.0"
    assert keys is not None
    # The folder, since a file that is mounted alone stays the old one when the keys are written anew.
    assert mounts("gateway")[str(keys.parent)] in COMPOSE["volumes"]
    (made,) = [line for line in instructions("RUN") if str(keys.parent) in line]
    assert f"install -d -o pixmill -g pixmill -m 700 {keys.parent}" in made
    (content,) = re.findall(rf"echo '(.*?)' \| install -o pixmill -g pixmill -m 600 /dev/stdin {keys}", made)
    with TemporaryDirectory() as directory:
        copy = Path(directory) / "keys.json"
        copy.write_text(content)
        assert read_keys(copy) == [], "it starts before the first key is made"
    head = (ROOT / "compose.yaml").read_text()
    assert "docker compose exec gateway pixmill key new" in head
    assert SERVICES["gateway"]["environment"]["PIXMILL_CONFIG"] in mounts("gateway")


def test_the_gateway_is_healthy_while_it_is_ready() -> None:
    check = " ".join(SERVICES["gateway"]["healthcheck"]["test"])
    assert f"http://127.0.0.1:{settings().metrics.listen.port}/readyz" in check


def test_every_password_is_a_file_of_its_own_that_git_ignores() -> None:
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().split()
    files = {name: secret["file"] for name, secret in COMPOSE["secrets"].items()}
    assert files == {name: f"deploy/secrets/{name}" for name in files}
    passwords = {secrets()[name] for name in files}
    assert len(passwords) == len(files) == 4
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)
    assert {name for service in SERVICES.values() for name in service.get("secrets", ())} == set(files)
    grafana = SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    assert grafana == "/run/secrets/grafana_admin"


def test_every_image_is_of_one_patch_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    images += [f"python:{version}" for version in re.findall(r"^ARG PYTHON=(.+)$", DOCKERFILE, re.MULTILINE)]
    assert len(images) == 4
    for image in images:
        assert re.search(r"(:v?\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})$", image), image


def test_redis_keeps_its_data_and_evicts_nothing() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert f"--hash-max-listpack-value {HASH_VALUE_BYTES}" in command
    assert "/data" in mounts("redis")


def test_the_image_runs_the_command_as_pid_1_without_privileges() -> None:
    (entrypoint,) = instructions("ENTRYPOINT")
    (program,) = json.loads(entrypoint)
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("USER") == ["10001:10001"]
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in OURS.values())


def test_the_build_copies_only_what_exists_and_is_not_ignored() -> None:
    ignore = (ROOT / ".dockerignore").read_text().split()
    sources = [
        source
        for copy in instructions("COPY")
        if not copy.startswith("--from")
        for source in copy.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source.partition('/')[0]}" in ignore
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert set(packages["wheel"]["packages"]) <= set(sources)


def test_uv_is_the_one_that_locks() -> None:
    (pinned,) = re.findall(r"uv==([\d.]+)", DOCKERFILE)
    makefile = ROOT / "Makefile"
    if not makefile.is_file():
        pytest.skip("there is no Makefile to compare uv's version with")
    assert set(re.findall(r"uv==([\d.]+)", makefile.read_text())) <= {pinned}


def test_our_services_run_commands_that_exist() -> None:
    if importlib.util.find_spec("daemon.__main__") is None:
        pytest.skip("there is no command line to compare with")
    for service in OURS.values():
        command, *arguments = service["command"]
        done = subprocess.run(
            [sys.executable, "-m", "daemon", command, "--help"],
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert {argument for argument in arguments if argument.startswith("--")} <= set(done.stdout.split())


def test_grafana_is_provisioned_with_the_dashboard_and_its_data_source() -> None:
    mounted = mounts("grafana")
    (provider,) = read_yaml(DEPLOY / "grafana/provisioning/dashboards/pixmill.yml")["providers"]
    assert ROOT / mounted[provider["options"]["path"]] == DASHBOARD.parent
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert home.name == DASHBOARD.name
    (source,) = read_yaml(DEPLOY / "grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert urlsplit(source["url"]).hostname in SERVICES
    assert source["type"] == "prometheus"


def test_panels_are_unique_and_do_not_overlap() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_panel_says_what_it_means_and_names_alerts_that_exist() -> None:
    for panel in panels():
        assert panel["description"], panel["title"]
        assert set(re.findall(r"Pixmill[A-Z]\w+", panel["description"])) <= set(alerts())


def test_no_query_depends_on_the_name_of_a_scrape_job() -> None:
    for panel in panels():
        for target in panel["targets"]:
            assert set(re.findall(r'job=~?"([^"]*)"', target["expr"])) <= {"$job"}, target["expr"]


def test_every_variable_of_a_query_can_be_chosen() -> None:
    chosen = {variable["name"] for variable in dashboard()["templating"]["list"]}
    used = {name for panel in panels() for name in re.findall(r"\$([a-z]\w*)", str(panel["targets"]))}
    assert used == {"job", "route", "quota"}
    assert used <= chosen


def test_panels_take_the_highest_of_gauges_that_every_replica_shows() -> None:
    shared = re.compile(r"pixmill_(queue_depth|queue_oldest_seconds|stream_|quota_|batches_active|backlog_)")
    for panel in panels():
        for target in panel["targets"]:
            for found in shared.finditer(target["expr"]):
                before = target["expr"][: found.start()]
                assert re.search(r"max( by \([\w, ]+\))? ?\($", before), target["expr"]


def test_the_head_of_the_composition_names_users_and_files_that_exist() -> None:
    head = (ROOT / "compose.yaml").read_text().partition("\nname:")[0]
    users = set(re.findall(r"^user (\S+)", (DEPLOY / "redis" / "users.acl").read_text(), re.MULTILINE))
    assert set(re.findall(r"pixmill-[a-z]+", head)) == users
    assert users == {name.replace("redis_", "pixmill-") for name in COMPOSE["secrets"] if "redis" in name}
    assert set(re.findall(r"/run/secrets/(\w+)", head)) <= set(SERVICES["redis"]["secrets"])
