"""A real PostgreSQL for the tests, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.e2e.processes import wait_until
from tests.servers import free_port

STARTS_S = 30.0
PASSWORD = "planted:p@ss/word"  # with signs that a URL must quote


def program(name: str) -> str | None:
    """A program of PostgreSQL; Debian puts them beside the PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name) or shutil.which(name, path=":".join(map(str, versions)))


def has_postgres() -> bool:
    return program("initdb") is not None and program("postgres") is not None


def _other_user() -> Mapping[str, Any]:
    """PostgreSQL refuses to run as root: the arguments of a process of another user."""
    if os.geteuid() != 0:
        return {}
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


class PostgresServer:
    """A server with one user, `pixmill`, and one database of that name. It may be stopped and started again."""

    def __init__(self) -> None:
        self._user = _other_user()
        self.directory = Path(tempfile.mkdtemp(prefix="pixmill-postgres-"))
        (self.directory / "password").write_text(PASSWORD)
        if self._user:
            os.chown(self.directory, self._user["user"], self._user["group"])
        self.port = free_port()
        words = ["--username=pixmill", "--auth=scram-sha-256", f"--pwfile={self.directory}/password"]
        self._run(
            "initdb", *words, "--no-sync", "--encoding=UTF8", "--locale=C", "-D", f"{self.directory}/data"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.sql("CREATE DATABASE pixmill", database="postgres")

    @property
    def url(self) -> str:
        return self.url_with(PASSWORD)

    def url_with(self, password: str) -> str:
        return f"postgresql://pixmill:{quote(password, safe='')}@127.0.0.1:{self.port}/pixmill"

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        listens = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-k", str(self.directory)]
        command = [str(program("postgres")), "-D", f"{self.directory}/data", *listens, "-c", "fsync=off"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/", **self._user)
        wait_until(self._answers, STARTS_S)

    def stop(self) -> None:
        """An immediate shutdown, as in a crash: connections break."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(STARTS_S)
            self.process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def sql(self, statement: str, database: str = "pixmill") -> str:
        """Run statements as psql prints them, one row a line, with `|` between the columns."""
        at = f"host=127.0.0.1 port={self.port} user=pixmill dbname={database}"
        return self._run(
            "psql", at, "-v", "ON_ERROR_STOP=1", "-AtX", "-c", statement, PGPASSWORD=PASSWORD
        ).strip()

    def _answers(self) -> bool:
        try:
            self.sql("SELECT 1", database="postgres")
        except subprocess.CalledProcessError:
            return False
        return True

    def _run(self, name: str, *words: str, **environ: str) -> str:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [str(program(name)), *words],
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
            env={**os.environ, **environ},
            **self._user,
        )
        return done.stdout
