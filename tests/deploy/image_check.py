"""Builds the image of deploy/Dockerfile on a base of Debian's own packages, runs it, and checks how it runs.

`python -m tests.deploy.image_check` needs root, podman with crun or runc, and mmdebstrap; without them, or where the
machine lets nothing of this run, it is skipped with the reason and exit code 0. The base is kept in `.image` for the
next time, and made anew if its packages change. Network is used for packages alone: the container has none.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.deploy.files import ROOT

FOLDER: Final = ROOT / ".image"
IMAGE: Final = "localhost/pixmill"
NAME: Final = "pixmill-image-check"
MOST_MB: Final = 200
CERTIFICATES: Final = Path(
    "/etc/ssl/certs/ca-certificates.crt"
)  # of this machine, which may have a company's CA
PACKAGES: Final = ("usr-is-merged", "python3", "ca-certificates", "passwd", "tzdata")
TOOLS: Final = ("python3-venv", "binutils")
# Nothing here converts between old encodings, or reads manuals, those of Python included. Python's own installation
# compiles its manuals, so these go afterwards.
WITHOUT: Final = (
    "share/man",
    "share/locale",
    "share/doc",
    "share/info",
    "lib/*/gconv",
)
LATER: Final = 'rm -r "$1"/usr/lib/python3*/pydoc_data'


def _named(name: str, packages: Sequence[str]) -> str:
    """The name of a base, which changes with what is in it, so that no older one is taken for it."""
    content = hashlib.sha256(json.dumps([packages, WITHOUT, LATER]).encode()).hexdigest()
    return f"{name}-{content[:12]}"


BASES: Final = {
    _named("base", PACKAGES): PACKAGES,
    _named("builder", (*PACKAGES, *TOOLS)): (*PACKAGES, *TOOLS),
}
BASE, BUILDER = (f"localhost/pixmill-{name}" for name in BASES)
# A machine that may not raise limits refuses podman's own.
LIMITS: Final = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
INSIDE: Final = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
try:
    open("/written", "w")
    root = "writable"
except OSError as error:
    root = error.strerror
command = open("/proc/1/cmdline").read().split(chr(0))
print(json.dumps({"uid": status["Uid"].split()[0], "root": root, "command": command}))
"""


class SkipError(Exception):
    """This machine cannot make or run the image; the text is the reason."""


def main() -> None:
    try:
        podman = usable_podman()
        build(podman)
        failed = [claim for claim, holds in checks(podman) if not holds]
    except SkipError as reason:
        print(f"SKIPPED image-check: {reason}")
        return
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"image-check failed: a command of the image or its container fails.\n{error}\n{error.stderr}"
        )
    except json.JSONDecodeError as error:
        sys.exit(f"image-check failed: the container shows no facts of itself ({error}).")
    if failed:
        sys.exit(f"image-check failed: {'; '.join(failed)}.")


def usable_podman() -> Callable[..., str]:
    """A podman that runs a container of the base here; raises SkipError."""
    if os.geteuid() != 0:
        raise SkipError("it needs root, to make a base of Debian's packages.")
    if missing := [name for name in ("podman", "mmdebstrap") if shutil.which(name) is None]:
        raise SkipError(f"{' and '.join(missing)} is not installed: apt install podman runc mmdebstrap.")
    tars = [debian(name, packages) for name, packages in BASES.items()]
    reasons = []
    for runtime in filter(shutil.which, ("crun", "runc")):
        podman = _podman(runtime)
        try:
            for name, tar in zip((BASE, BUILDER), tars, strict=True):
                if not podman("images", "--quiet", name):
                    podman("import", str(tar), name)
            podman("run", "--rm", "--network", "none", *LIMITS, BASE, "true")
        except subprocess.CalledProcessError as error:
            reasons.append(f"{runtime}: {_last_line(error)}")
        else:
            return podman
    raise SkipError(f"no container can run here ({'; '.join(reasons) or 'neither crun nor runc'}).")


def _podman(runtime: str) -> Callable[..., str]:
    options = ("--root", f"{FOLDER}/storage", "--runroot", f"{FOLDER}/run", "--storage-driver", "vfs")
    kind = ("--cgroup-manager", "cgroupfs", "--runtime", runtime)

    def podman(*arguments: str) -> str:
        return _run(["podman", *options, *kind, *arguments])

    return podman


def debian(name: str, packages: Sequence[str]) -> Path:
    """A tar of a small Debian of this machine's release, with these packages; made once."""
    made = FOLDER / f"{name}.tar"
    if made.exists():
        return made
    FOLDER.mkdir(exist_ok=True)
    new = FOLDER / "new.tar"
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    excluded = [f"--dpkgopt=path-exclude=/usr/{each}/*" for each in WITHOUT]
    options = [
        "--variant=essential",
        "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        *excluded,
        f"--customize-hook={LATER}",
    ]
    recommends = '--aptopt=APT::Install-Recommends "false"'
    try:
        _run(["mmdebstrap", *options, recommends, f"--include={','.join(packages)}", release, str(new)])
    except subprocess.CalledProcessError as error:
        if "Unpacking" in error.stderr:  # the machine lets it work, so the list of packages is wrong
            raise
        raise SkipError(f"mmdebstrap makes no base here ({_last_line(error)}).") from error
    return new.rename(made)


def build(podman: Callable[..., str]) -> None:
    """Build the image; a failure ends the check, with podman's words."""
    cache = _run([str(ROOT / ".uv" / "bin" / "uv"), "cache", "dir"]).strip()
    mounted = [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"] if CERTIFICATES.exists() else []
    podman(
        *("build", "--format", "docker", "--isolation", "chroot", "--network", "host", "--layers=false"),
        *("--build-arg", f"BASE={BASE}", "--build-arg", f"BUILDER={BUILDER}"),
        *("--tag", IMAGE, "--file", "deploy/Dockerfile"),
        *mounted,
        f"--volume={cache}:/root/.cache/uv",
        ".",
    )


def checks(podman: Callable[..., str]) -> Iterator[tuple[str, bool]]:
    """Each check with whether it holds, as it is printed. The container has a read-only root and no network."""
    size_mb = int(podman("image", "inspect", "--format", "{{.Size}}", IMAGE)) / 1e6
    yield _shown(f"size {size_mb:.0f} MB, at most {MOST_MB}", size_mb <= MOST_MB)
    podman("rm", "--force", "--ignore", NAME)
    folders = ("--tmpfs", "/tmp:mode=1777", "--volume", "/data")
    alone = ("--read-only", "--read-only-tmpfs=false", "--network", "none", "--cap-drop", "all")
    podman("run", "--detach", "--name", NAME, *alone, *folders, *LIMITS, IMAGE, "up")
    try:
        yield _shown("health: its own check succeeds", _becomes(lambda: podman("healthcheck", "run", NAME)))
        inside = json.loads(podman("exec", NAME, "python", "-c", INSIDE))
        yield _shown(
            f"PID 1 is pixmill: {' '.join(inside['command'])}", "pixmill" in "".join(inside["command"][:2])
        )
        yield _shown(f"user {inside['uid']}, not root", inside["uid"] == "10001")
        yield _shown(f"root file system: {inside['root']}", inside["root"] == "Read-only file system")
        picture = ("exec", NAME, "pixmill", "submit", "a cup", "--wait")
        yield _shown("it draws a picture", _becomes(lambda: podman(*picture)))
        began = time.monotonic()
        podman("stop", "--time", "30", NAME)  # by the STOPSIGNAL of the image
        code = podman("inspect", "--format", "{{.State.ExitCode}}", NAME).strip()
        took_s = time.monotonic() - began
        yield _shown(f"SIGTERM ends it in {took_s:.1f} s with code {code}", code == "0" and took_s < 25)
    finally:
        podman("rm", "--force", "--ignore", NAME)


def _shown(claim: str, holds: bool) -> tuple[str, bool]:
    print(f"{'ok  ' if holds else 'FAIL'} {claim}", flush=True)
    return claim, holds


def _becomes(call: Callable[[], str], within_s: float = 60) -> bool:
    """Whether a command succeeds within a time, tried again and again."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            call()
        except subprocess.CalledProcessError as error:
            why = _last_line(error)
            time.sleep(0.5)
        else:
            return True
    print(f"     the last reason: {why}")
    return False


def _run(command: Sequence[str]) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _last_line(error: subprocess.CalledProcessError) -> str:
    lines = (error.stderr or error.stdout or "").strip().splitlines()
    return lines[-1] if lines else f"exit code {error.returncode}"


if __name__ == "__main__":
    main()
