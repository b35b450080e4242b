"""A newcomer's way with the studio's payload, command by command as docs/producing.md has it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, run
from tests.e2e.processes import Command, wait_until

TEXT = (ROOT / "docs" / "producing.md").read_text()
_, SECTION = TEXT.split("\n## An image studio's payload\n")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", SECTION.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(120)
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl on PATH")
def test_two_commands_make_pictures_of_a_studio_payload(tmp_path: Path) -> None:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    start, first, stream = BLOCKS
    assert start.split() == ["pixmill", "up"]
    up = Command(["up", "--metrics", "127.0.0.1:0"], tmp_path, PIXMILL_GATEWAY__LISTEN="127.0.0.1:0")
    try:
        up.wait_for("Ctrl-C stops")
        address = up.wait_for("  http ").split()[-1]
        script = first.replace("http://localhost:8080", address)
        assert script.count(address) == 2
        done = run(script, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert {path.stem for path in (tmp_path / "pictures").rglob("*.png")} >= {"sku1.a_1", "sku1.a_2"}
        if shutil.which("redis-cli") is None:
            return
        port = up.wait_for("redis://").rsplit(":", 1)[1].split("/")[0]
        upload = script.partition("\ncurl")[0]
        done = run(f"{upload}\n{stream}", tmp_path, PORT=port)
        assert done.returncode == 0, done.stderr
        wait_until(lambda: run("pixmill status winter", tmp_path).returncode == 0, 30)
        assert run("pixmill watch winter", tmp_path).returncode == 0
    finally:
        up.stop()
