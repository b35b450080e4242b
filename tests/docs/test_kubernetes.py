"""The commands of docs/kubernetes.md, with a `kubectl` that only notes what it is asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.kustomize import build, named
from tests.docs.pages import ROOT, blocks_of, run

PAGE = "docs/kubernetes.md"
START = next(text for kind, text in blocks_of(PAGE) if kind == "sh")
FOLDER = ROOT / "deploy" / "kubernetes"
NOTES = '#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >>kubectl.txt\n'


def test_the_three_commands_make_every_secret_that_the_pods_need(tmp_path: Path) -> None:
    assert len(START.splitlines()) == 3
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("secrets"))
    shutil.copy(ROOT / "Makefile", tmp_path)
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(NOTES)
    kubectl.chmod(0o755)
    done = run(f'set -e; PATH="$PWD/bin:$PATH"\n{START}', tmp_path, OPENAI_API_KEY="sk-planted")
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "kubectl.txt").read_text().split()
    made: set[str] = set()
    for place in (word.partition("=")[2] for word in words if word.startswith("--from-file=")):
        path = tmp_path / place
        made |= {each.name for each in path.iterdir()} if path.is_dir() else {path.name}
    made |= {word.split("=")[1] for word in words if word.startswith("--from-literal=")}
    assert set(_needed(build(tmp_path / words[-1]))) <= made


def _needed(documents: list[dict[str, Any]]) -> Iterator[str]:
    """The keys of the Secret without which a pod does not start."""
    for pod in (each["spec"]["template"]["spec"] for each in documents if "template" in each.get("spec", {})):
        for volume in pod["volumes"]:
            for item in volume.get("secret", {}).get("items", ()):
                yield item["key"]
        for variable in pod["containers"][0]["env"]:
            reference = variable.get("valueFrom", {}).get("secretKeyRef", {"optional": True})
            if not reference.get("optional"):
                yield reference["key"]


def test_the_page_names_files_services_and_jobs_that_exist() -> None:
    page = (ROOT / PAGE).read_text()
    files = re.findall(r"`((?:base|redis|sentinel|keda)/[\w./]+)`", page)
    assert files
    assert all((FOLDER / name).is_file() for name in files)
    documents = build(FOLDER / "redis")
    (block,) = [text for kind, text in blocks_of(PAGE) if kind == "yaml"]
    shipped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    scrapes = yaml.safe_load(block)["scrape_configs"]
    assert [each["job_name"] for each in scrapes] == [each["job_name"] for each in shipped]
    for scrape in scrapes:
        (place,) = scrape["dns_sd_configs"]
        (name,) = place["names"]
        service = named(documents, "Service", name.partition(".")[0])
        assert service["spec"]["ports"] == [{"name": "metrics", "port": place["port"]}]
        assert name == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
