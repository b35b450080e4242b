"""The doctor names a package that overwrites a module of ours."""

from __future__ import annotations

from daemon.doctor.clash import clashes


def test_a_package_with_a_module_of_our_name_is_named() -> None:
    owners = {
        "daemon": ["python-daemon", "pixmill-daemon"],
        "lockfile": ["lockfile"],
        "limiter": ["pixmill-daemon"],
    }
    (finding,) = clashes(owners)
    assert (finding.check, finding.state) == ("packages", "warn")
    assert "python-daemon has a module `daemon` too" in finding.says
    assert "uv tool install pixmill-daemon" in finding.says


def test_this_environment_has_none() -> None:
    assert clashes() == []
