"""The environments of the SDKs: one that cannot be made says why, and its tests are skipped with that reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.venvs import python_for
from tests.sdks import conftest, environments
from tests.sdks.environments import HERE, NAMES


def test_uvs_own_words_say_why_an_environment_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "requirements-odd.txt").write_text("this is no requirement")
    with pytest.raises(RuntimeError, match=r"(?s)environment of odd: .*this is no requirement"):
        python_for("odd", tmp_path, tmp_path / "venvs")


def test_an_sdk_without_an_environment_skips_its_tests_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(name: str, script: str) -> None:
        raise RuntimeError(f"uv could not make the environment of {name}: no such version")

    monkeypatch.setattr(conftest, "Sdk", refused)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no such version"):
        next(conftest.started("tencent", "tencent_client.py"))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no such version"):
        next(conftest.started("tencent", "tencent_client.py"))


@pytest.mark.parametrize(
    ("ci", "code", "says"), [("true", 1, "CI needs them"), ("", 0, "their tests are SKIPPED")]
)
def test_a_missing_environment_fails_ci_and_is_reported_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, code: int, says: str
) -> None:
    def make(name: str) -> Path:
        if name == "litellm":
            raise RuntimeError("uv could not make the environment of litellm: offline")
        return Path(name)

    monkeypatch.setenv("CI", ci)
    assert environments.make_all(make) == code
    output = capsys.readouterr().err
    assert f"SDKs without an environment: litellm; {says}." in output
    assert "offline" in output


def test_all_environments_made_is_all_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert environments.make_all(Path) == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_version_is_pinned(name: str) -> None:
    lines = (HERE / f"requirements-{name}.txt").read_text().splitlines()
    assert [line for line in lines if "==" not in line and not line.startswith("#")] == []
