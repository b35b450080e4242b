"""deploy/kubernetes is what Kubernetes and KEDA accept, and agrees with the image, the settings and compose.yaml."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import pytest
import yaml

from daemon.settings import load_settings
from tests.deploy.files import DEPLOY, ROOT, read_yaml
from tests.deploy.keda import SCALED_OBJECT
from tests.deploy.kustomize import Document, build, named
from tests.docs.pages import run

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = ("redis", "sentinel")
VERSIONS = ("1.31", "1.37")  # the oldest with all fields at work, and the newest that the schemas know
PARTS = ("worker", "gateway")
SCALED = FOLDER / "keda" / "scaledobject.yaml"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


@cache
def _documents(overlay: str) -> list[Document]:
    return build(FOLDER / overlay)


def documents(overlay: str) -> list[Document]:
    return copy.deepcopy(_documents(overlay))


def pod(overlay: str, name: str) -> dict[str, Any]:
    kind = "StatefulSet" if name == "redis" else "Deployment"
    found: dict[str, Any] = named(documents(overlay), kind, name)["spec"]["template"]["spec"]
    return found


def container(overlay: str, part: str) -> dict[str, Any]:
    (found,) = pod(overlay, f"pixmill-{part}")["containers"]
    assert isinstance(found, dict)
    return found


def variables(overlay: str, part: str) -> dict[str, Any]:
    return {each["name"]: each for each in container(overlay, part)["env"]}


@pytest.fixture
def with_keda(tmp_path: Path) -> Path:
    """The folders, with the line for KEDA of every overlay switched on as its comment says."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    for overlay in OVERLAYS:
        file = tmp_path / "deploy/kubernetes" / overlay / "kustomization.yaml"
        file.write_text(file.read_text().replace("# components:", "components:"))
    return tmp_path / "deploy/kubernetes"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_knows_every_field(overlay: str, version: str) -> None:
    for document in documents(overlay):
        kubernetes_validate.validate(document, version, strict=True)


def test_an_unknown_field_is_refused() -> None:
    document = named(documents("redis"), "Deployment", "pixmill-worker")
    document["spec"]["template"]["spec"]["terminationGraceSeconds"] = 150
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGraceSeconds"):
        kubernetes_validate.validate(document, VERSIONS[0], strict=True)


def test_keda_knows_every_field() -> None:
    validator = jsonschema_rs.validator_for(SCALED_OBJECT)
    document = read_yaml(SCALED)
    validator.validate(document)
    document["spec"]["triggers"][0]["metadata"]["ignoreNullValues"] = False
    assert not validator.is_valid(document)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no `kubectl` on PATH to compare with")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_builds_the_same(overlay: str, with_keda: Path) -> None:
    for folder in (FOLDER / overlay, with_keda / overlay):
        done = subprocess.run(
            ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        built = re.sub(r"(name: (?:pixmill|redis))-[a-z0-9]{10}$", r"\1", done.stdout, flags=re.MULTILINE)
        assert _by_name(list(yaml.safe_load_all(built))) == _by_name(build(folder))


def _by_name(found: list[Document]) -> dict[tuple[str, str], Document]:
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keda_alone_sets_the_number_of_workers(overlay: str, with_keda: Path) -> None:
    assert named(documents(overlay), "Deployment", "pixmill-worker")["spec"]["replicas"] == 2
    scaled = build(with_keda / overlay)
    target = named(scaled, "ScaledObject", "pixmill-worker")["spec"]["scaleTargetRef"]["name"]
    assert "replicas" not in named(scaled, "Deployment", target)["spec"]
    assert named(scaled, "Deployment", "pixmill-gateway")["spec"]["replicas"] == 2


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_configuration_passes_the_check(overlay: str, tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text(
        named(documents(overlay), "ConfigMap", "pixmill")["data"]["pixmill.toml"]
    )
    environ = {"REDIS_PASSWORD": "0123456789abcdef"}
    for name, variable in variables(overlay, "worker").items():
        value = variable.get("value", "secret")
        environ.setdefault(name, value.replace("$(REDIS_PASSWORD)", environ["REDIS_PASSWORD"]))
    done = run("pixmill config check", tmp_path, **environ)
    assert done.returncode == 0, done.stderr
    assert {"redis": "Redis: redis://", "sentinel": "Redis: redis+sentinel://"}[overlay] in done.stdout
    assert "s3://" in done.stdout, "pods on several nodes share no folder"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_password_is_set_before_the_url_that_quotes_it(overlay: str, part: str) -> None:
    names = list(variables(overlay, part))
    assert "$(REDIS_PASSWORD)" in variables(overlay, part)["PIXMILL_REDIS__URL"]["value"]
    assert names.index("REDIS_PASSWORD") < names.index("PIXMILL_REDIS__URL")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_workers_have_the_secret_of_a_provider(overlay: str) -> None:
    settings = load_settings(FOLDER / "base" / "pixmill.toml", environ={}).settings
    keys = {credential.api_key_env for credential in settings.credentials.values()}
    assert keys <= set(variables(overlay, "worker"))
    assert not keys & set(variables(overlay, "gateway"))
    for part in PARTS:
        written = {name for name, each in variables(overlay, part).items() if "value" in each}
        assert written == {"PIXMILL_REDIS__URL", "AWS_REGION"}, "every secret is read from the Secret"


@pytest.mark.parametrize("part", PARTS)
def test_a_stop_waits_longer_than_the_drain(part: str) -> None:
    drain_s = load_settings(FOLDER / "base" / "pixmill.toml", environ={}).settings.worker.drain_timeout
    grace_s = pod("redis", f"pixmill-{part}")["terminationGracePeriodSeconds"]
    assert grace_s == (drain_s + 30 if part == "worker" else 30)


@pytest.mark.parametrize("part", PARTS)
def test_probes_and_mounts_lead_to_what_the_settings_say(part: str) -> None:
    settings = load_settings(FOLDER / "base" / "pixmill.toml", environ={}).settings
    found = container("redis", part)
    ports = {port["name"]: port["containerPort"] for port in found["ports"]}
    listens = {"metrics": settings.metrics.listen, "http": settings.gateway.listen}
    assert ports == {name: listens[name].port for name in ports}
    assert all(listens[name].host == "0.0.0.0" for name in ports)
    for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        assert found[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "metrics"}
    mounts = {mount["name"]: mount["mountPath"] for mount in found["volumeMounts"]}
    assert found["args"] == [part, "--config", f"{mounts['config']}/pixmill.toml"]
    if part == "gateway":
        assert str(settings.gateway.keys_file) == f"{mounts['keys']}/keys.json"


@pytest.mark.parametrize("name", ["pixmill-worker", "pixmill-gateway", "redis"])
def test_pods_keep_to_the_restricted_profile_and_write_nowhere_else(name: str) -> None:
    spec = pod("redis", name)
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    (only,) = spec["containers"]
    assert only["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in only["resources"]["limits"]
    assert {"cpu", "memory"} <= set(only["resources"]["requests"])
    if name != "redis":
        user = f"{security['runAsUser']}:{security['runAsGroup']}"
        assert f"USER {user}" in DOCKERFILE


def test_redis_is_that_of_the_composition() -> None:
    (redis,) = pod("redis", "redis")["containers"]
    service = read_yaml(ROOT / "compose.yaml")["services"]["redis"]
    assert redis["image"] == service["image"]
    assert redis["command"] == service["entrypoint"]
    assert redis["args"][: len(service["command"])] == service["command"]
    data = named(documents("redis"), "ConfigMap", "redis")["data"]
    assert set(data) == {"start.sh", "users.acl"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_pod_at_a_time_is_taken_away(overlay: str) -> None:
    for part in PARTS:
        spec = named(documents(overlay), "PodDisruptionBudget", f"pixmill-{part}")["spec"]
        deployment = named(documents(overlay), "Deployment", f"pixmill-{part}")["spec"]
        assert spec["maxUnavailable"] == 1
        assert spec["selector"] == deployment["selector"]
        assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_reach_what_their_url_names(overlay: str) -> None:
    """DNS, https, and the ports of this installation's Redis: nothing else."""
    open_ports: set[int] = set()
    for document in documents(overlay):
        if document["kind"] == "NetworkPolicy" and document["metadata"]["name"].startswith("pixmill"):
            for rule in document["spec"].get("egress", ()):
                open_ports |= {port["port"] for port in rule["ports"]}
    assert open_ports == {"redis": {53, 443, 6379}, "sentinel": {53, 443, 6379, 26379}}[overlay]


def test_prometheus_finds_every_pod_by_a_name() -> None:
    for service, part in (("pixmill-worker", "worker"), ("pixmill-gateway-metrics", "gateway")):
        spec = named(documents("redis"), "Service", service)["spec"]
        assert spec["clusterIP"] == "None"
        assert spec["publishNotReadyAddresses"] is True, "one that is not ready is what alerts are about"
        assert spec["selector"] == {"app.kubernetes.io/name": f"pixmill-{part}"}
