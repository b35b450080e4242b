"""Finds packages that share the name of one of our modules: whichever is installed last overwrites the other."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import packages_distributions

from daemon.doctor.checks import Finding, State

OURS = "pixmill-daemon"
MODULES = ("daemon", "limiter", "providers")


def clashes(owners: Mapping[str, list[str]] | None = None) -> list[Finding]:
    """A warning for each module of ours that another distribution of this environment has too.

    `owners` are the distributions by module; None: those of this environment.
    """
    known = packages_distributions() if owners is None else owners
    return [
        Finding(
            "packages",
            State.WARN,
            f"{other} has a module `{module}` too, as ours is called: the one that is installed last overwrites the "
            f"other. Give {OURS} an environment of its own, such as by `uv tool install {OURS}`.",
        )
        for module in MODULES
        for other in sorted({name.lower() for name in known.get(module, ())} - {OURS})
    ]
