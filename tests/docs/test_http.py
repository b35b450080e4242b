"""The page about HTTP is true: its blocks run in their order against `pixmill up`, and its tables are complete."""

from __future__ import annotations

import functools
import http.server
import io
import json
import re
import shutil
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from daemon.gateway.document.codes import CODES
from daemon.gateway.document.operations import OPERATIONS
from daemon.settings import load_settings
from tests.docs.pages import BIN, ROOT, Block, blocks_of, run
from tests.e2e.processes import Command

PAGE = "docs/http.md"
TEXT = (ROOT / PAGE).read_text()
BLOCKS = blocks_of(PAGE)
HERE, SHOP = "http://localhost:8080", "https://cdn.shop.example"
EVENT_SOURCE = Path(__file__).with_name("event_source.mjs")
# Shown, and read by a test of their own below or by tests/sdks, which have the SDKs.
SHOWN = {"", "json", "toml", "nginx", "sh keyed", "python openai", "python litellm"}


class Rest(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The pictures of a shop, which its studio's payload names."""
    folder = tmp_path_factory.mktemp("shop")
    Image.new("RGB", (64, 64), "red").save(folder / "kettle.png")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Rest, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http")


@pytest.fixture(scope="module")
def up(folder: Path, shop: str) -> Iterator[str]:
    command = Command(
        ["up", "--metrics", "127.0.0.1:0"],
        folder,
        PIXMILL_GATEWAY__LISTEN="127.0.0.1:0",
        PIXMILL_NETWORK__ALLOW_HOSTS=shop.removeprefix("http://"),
    )
    command.wait_for("Ctrl-C stops")
    yield command.wait_for("  http  ").split()[-1]
    command.stop()


def done(block: Block, folder: Path, url: str, shop: str) -> str:
    """Run a block at another address than the shown one; returns what it printed."""
    text = block.text.replace(HERE, url).replace(SHOP, shop)
    if block.kind.startswith("js"):
        node = shutil.which("node")
        if node is None:
            pytest.skip("needs node")
        text = f'import "{EVENT_SOURCE}";\n{text}'
        ended = run(text, folder, (node, "--input-type=module", "--eval"))
    elif block.kind.startswith("python"):
        ended = run(text, folder, (str(BIN / "python"), "-c"))
    else:
        ended = run(f"set -e\n{text}", folder)
    assert ended.returncode == 0, f"{text}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


@pytest.mark.timeout(180)
def test_the_blocks_work_in_their_order(up: str, folder: Path, shop: str) -> None:
    refusals = 0
    for block in BLOCKS:
        if block.kind in SHOWN or block.kind.startswith("js"):
            continue
        printed = done(block, folder, up, shop)
        refusals += printed.count("urn:pixmill:problem")
    assert refusals == 1, "only the one of the section about errors"
    for name in ("kettle.png", "slide.png", "autumn.png", "blue.png", "preview.webp"):
        assert Image.open(folder / name).size[0] > 64, name
    assert "event: end" in (folder / "autumn.events").read_text()
    archive = zipfile.ZipFile(folder / "winter.zip")
    assert {"manifest.json", "manifest.csv", "k1/front.png", "k2/front.png"} == {*archive.namelist()}
    assert archive.testzip() is None


@pytest.mark.parametrize("kind", ["slides", "events"])
def test_the_lines_for_browsers_work_in_node(up: str, folder: Path, shop: str, kind: str) -> None:
    (block,) = [block for block in BLOCKS if block.kind == f"js {kind}"]
    done(
        Block("sh", f"curl -s '{HERE}/v1/batches' -H 'Content-Type: application/json' -d '{BATCH}'"),
        folder,
        up,
        shop,
    )
    printed = done(Block(block.kind, block.text.replace("winter", "for-node")), folder, up, shop)
    assert printed.splitlines()[-1] == "one" if kind == "events" else "/images/0" in printed


BATCH = '{"id": "for-node", "items": [{"id": "one", "prompt": "a cup"}]}'


def test_the_slide_makers_python_lines_print_each_slide(up: str, folder: Path, shop: str) -> None:
    (block,) = [block for block in BLOCKS if block.kind == "python slides"]
    lines = done(block, folder, up, shop).splitlines()
    assert [line.split()[:2] for line in lines[-2:]] == [["1", "success"], ["2", "success"]]


def test_the_lines_with_a_key_work_on_a_gateway_with_keys(up: str, tmp_path: Path) -> None:
    (keys,) = [block for block in BLOCKS if block.kind == "sh keys"]
    (keyed,) = [block for block in BLOCKS if block.kind == "sh keyed"]
    made = run(keys.text, tmp_path)
    assert made.returncode == 0, made.stderr
    (key,) = re.findall(r"pxm_\S+", made.stdout)
    (text,) = [block.text for block in BLOCKS if block.kind == "toml"]
    (tmp_path / "pixmill.toml").write_text(text.replace("0.0.0.0:8080", "127.0.0.1:0"))
    command = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path)
    try:
        url = command.wait_for("  http  ").split()[-1]
        lines = run(keyed.text.replace(HERE, url), tmp_path, KEY=key)
        assert lines.stdout.count('"tenant":"shop"') == 2, lines.stdout + lines.stderr
    finally:
        command.stop()


def test_the_shown_answers_are_json_and_the_configuration_loads(tmp_path: Path) -> None:
    for block in BLOCKS:
        if block.kind == "json":
            json.loads(block.text)
        if block.kind == "toml":
            tomllib.loads(block.text)
            (tmp_path / "pixmill.toml").write_text(block.text)
            load_settings(tmp_path / "pixmill.toml", environ={})


def test_the_table_of_errors_has_each_code_with_its_statuses() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d, ]+) \|", TEXT, re.MULTILINE))
    known: dict[str, set[int]] = {code: set() for code in CODES}
    known["method_not_allowed"].add(405)
    for operation in OPERATIONS.values():
        for group in () if operation.openai else operation.all_codes:
            for status, codes in group.items():
                for code in codes:
                    known[code].add(status)
    assert {code: {int(one) for one in text.split(",")} for code, text in rows.items()} == known


def test_a_path_prefix_is_part_of_every_address(tmp_path: Path) -> None:
    command = Command(
        ["up", "--metrics", "127.0.0.1:0"],
        tmp_path,
        PIXMILL_GATEWAY__LISTEN="127.0.0.1:0",
        PIXMILL_GATEWAY__PATH_PREFIX="/pixmill",
    )
    try:
        url = command.wait_for("  http  ").split()[-1]
        assert url.endswith("/pixmill")
        job = f"curl -s {url}/v1/jobs -H 'Content-Type: application/json' -H 'Prefer: wait=30'"
        record = json.loads(run(f"""{job} -d '{{"prompt": "a cup"}}'""", tmp_path).stdout)
        (image,) = record["images"]
        assert image["url"].startswith(f"{url}/v1/jobs/")
        assert run(f"curl -s -o cup.png {image['url']}", tmp_path).returncode == 0
        assert Image.open(io.BytesIO((tmp_path / "cup.png").read_bytes())).size == (1024, 1024)
    finally:
        command.stop()
