"""Builds a folder of deploy/kubernetes as `kubectl kustomize` does, as far as these folders need it.

The names of generated ConfigMaps get no hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
CLUSTER_WIDE = ("Namespace",)


def build(folder: Path) -> list[Document]:
    """The documents of a kustomization, with its own changes applied."""
    return _built(folder, [])


def named(documents: Iterable[Document], kind: str, name: str) -> Document:
    """The only document of a kind with a name."""
    (found,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def _built(folder: Path, documents: list[Document]) -> list[Document]:
    own: Document = yaml.safe_load((folder / "kustomization.yaml").read_text())
    known = {
        *("apiVersion", "kind", "namespace", "resources", "components"),
        *("images", "configMapGenerator", "patches"),
    }
    assert set(own) <= known, f"{folder}: this build does not know all of {set(own)}"
    for name in own.get("resources", ()):
        documents += _resources(folder / name)
    documents += [_config_map(folder, each) for each in own.get("configMapGenerator", ())]
    for patch in own.get("patches", ()):
        _apply(yaml.safe_load((folder / patch["path"]).read_text()), documents)
    for name in own.get("components", ()):
        _built(folder / name, documents)
    for document in documents:
        if "namespace" in own:
            document["metadata"]["namespace"] = own["namespace"]
        _set_images(document, own.get("images", ()))
    return documents


def _resources(path: Path) -> list[Document]:
    return build(path) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))


def _config_map(folder: Path, generator: Mapping[str, Any]) -> Document:
    data = {name: (folder / name).read_text() for name in generator["files"]}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}


def _apply(patch: Document, documents: list[Document]) -> None:
    target = named(documents, patch["kind"], patch["metadata"]["name"])
    target.update(_merged(target, patch))


def _merged(old: Any, patch: Any) -> Any:
    """A strategic merge: None removes a field, and lists of named things merge, those of the patch first."""
    if isinstance(old, dict) and isinstance(patch, dict):
        for gone in [name for name, value in patch.items() if value is None]:
            old.pop(gone, None)
        changed = {name: _merged(old.get(name), value) for name, value in patch.items() if value is not None}
        return {**old, **changed}
    if isinstance(old, list) and patch and all(isinstance(each, dict) and "name" in each for each in patch):
        before = {each["name"]: each for each in old}
        first = [_merged(before.pop(each["name"], {}), each) for each in patch]
        return [*first, *before.values()]
    return patch


def _set_images(document: Document, images: Iterable[Mapping[str, str]]) -> None:
    pod = document.get("spec", {}).get("template", {}).get("spec", {})
    for container in pod.get("containers", ()):
        for image in images:
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
