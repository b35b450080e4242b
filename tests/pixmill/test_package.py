"""The package is light, typed and documented, whatever else is installed beside it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker

import pixmill

ROOT = Path(__file__).parents[2]
MOST_PACKAGES = 14
LIBRARIES = ("redis", "hiredis", "httpx2", "pydantic", "orjson")
PROJECT = """
from __future__ import annotations

import asyncio

from pixmill import (
    BatchStatistics,
    Client,
    GenerationResult,
    GenerationTask,
    PixmillError,
    Result,
    SyncClient,
    batch_statistics,
    create_client_from_env,
    generate_batch_images,
)


def sync_side() -> BatchStatistics:
    with SyncClient("redis://localhost") as client:
        first: Result = client.generate("a kettle", seed=0)
        print(first.url, client.picture(first)[:4])
        for event in client.watch("b1"):
            print(event.type, event.data["item"])
        results: list[GenerationResult] = client.generate_batch_sync([GenerationTask("a kettle")])
    return batch_statistics(results)


async def async_side() -> list[Result]:
    async with Client("https://pixmill.example", key="pxm") as client:
        try:
            return await client.generate_batch("a kettle", 4, {"seed": 0}, print)
        except PixmillError:
            return []


made: list[GenerationResult] = generate_batch_images(["a"], "out", client=create_client_from_env())
asyncio.run(async_side())
wrong: int = sync_side()  # mypy must see this
"""


def test_few_packages_come_along() -> None:
    locked = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
    needs: dict[str, list[dict[str, Any]]] = {each["name"]: each.get("dependencies", []) for each in locked}
    found, left = set[str](), ["pixmill"]
    while left:
        for need in needs[left.pop()]:
            marker = need.get("marker")
            if need["name"] not in found and (marker is None or Marker(marker).evaluate()):
                found.add(need["name"])
                left.append(need["name"])
    assert set(LIBRARIES) <= found
    assert len(found) <= MOST_PACKAGES, sorted(found)
    assert f" {MOST_PACKAGES} packages," in (ROOT / "docs" / "python.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("program", "loaded"),
    [
        ("import pixmill", set[str]()),
        ("import pixmill\n[getattr(pixmill, name) for name in pixmill.__all__]", set[str]()),
        (
            "import pixmill\npixmill.Client('https://pixmill.example')",
            {"httpx2", "orjson", "redis", "hiredis"},
        ),
        (
            "import pixmill\npixmill.SyncClient('redis://localhost')",
            {"redis", "hiredis", "pydantic", "orjson"},
        ),
    ],
    ids=["import", "every name", "gateway", "redis"],
)
def test_libraries_are_loaded_with_the_first_client(program: str, loaded: set[str]) -> None:
    report = f"\nimport sys\nprint(*({LIBRARIES!r} & sys.modules.keys()))".replace(
        "('redis'", "{'redis'"
    ).replace("'orjson')", "'orjson'}")
    done = subprocess.run(
        [sys.executable, "-c", program + report], capture_output=True, text=True, check=True, cwd="/"
    )
    assert set(done.stdout.split()) <= loaded


def test_no_producer_loads_a_part_of_the_daemon() -> None:
    program = (
        "import sys, pixmill\npixmill.Client('redis://localhost'); pixmill.Client('http://localhost')\n"
        "print(*{name.split('.')[0] for name in sys.modules} & {'daemon', 'limiter', 'providers'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", pixmill.__all__)
def test_a_public_name_has_a_docstring_with_an_example(name: str) -> None:
    thing = getattr(pixmill, name)
    documented = [thing]
    if name.endswith("Client"):
        documented += [
            getattr(thing, method)
            for method in vars(thing)
            if not method.startswith("_")
            and callable(getattr(thing, method))
            and not method.endswith("close")
        ]
    for each in documented:
        assert "Example:\n\n" in (each.__doc__ or ""), each


def test_a_project_that_uses_it_passes_strict_types(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(PROJECT)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            str(ROOT / ".mypy_cache" / "project"),
            "project.py",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout
    assert 'has type "BatchStatistics", variable has type "int"' in errors[0]
