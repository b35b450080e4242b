"""Object stores with faults: an S3 (moto) behind a front that fails on request, and a small disk."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.request import Request, urlopen

from tests.servers import free_port

Fault = Literal["none", "503", "403", "refused", "cut", "lost", "stall"]

_ANSWER = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"


class S3:
    """A moto server in a thread of this process; its buckets and objects are asked for by plain HTTP."""

    def __init__(self) -> None:
        import logging

        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port: int = self._server.get_host_and_port()[1]

    def bucket(self, name: str) -> None:
        """Make an empty bucket."""
        urlopen(Request(f"http://127.0.0.1:{self.port}/{name}", method="PUT")).close()

    def reset(self) -> None:
        """No buckets any more."""
        urlopen(Request(f"http://127.0.0.1:{self.port}/moto-api/reset", method="POST")).close()

    def close(self) -> None:
        self._server.stop()


class Front:
    """Stands before an S3: passes requests on, one a connection, unless it is told to fail.

    `fault` goes for requests whose line `about` accepts. `stall` sends half of a body on and then nothing more.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self.port = free_port()
        self.fault: Fault = "none"
        self.about: Callable[[str], bool] = lambda _line: True
        self.seen: list[str] = []  # request lines
        self.stalled = asyncio.Event()
        self.go_on = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def environ(self) -> dict[str, str]:
        """What an AWS client needs to come here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED0000000000",
            "AWS_SECRET_ACCESS_KEY": "planted-aws-secret",
            "AWS_REGION": "us-east-1",
        }

    async def __aenter__(self) -> Front:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.go_on.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.partition(b"\r\n")[0].decode()
        self.seen.append(line)
        fault = self.fault if self.about(line) else "none"
        if fault == "refused":
            writer.transport.abort()
            return
        length = next(
            (
                int(field[15:])
                for field in head.lower().split(b"\r\n")
                if field.startswith(b"content-length:")
            ),
            0,
        )
        body = await reader.readexactly(length)
        if fault in ("503", "403"):
            status, code = {
                "503": (b"503 Slow Down", b"SlowDown"),
                "403": (b"403 Forbidden", b"AccessDenied"),
            }[fault]
            said = b"<Error><Code>%s</Code></Error>" % code
            writer.write(_ANSWER % (status, len(said), said))
            await writer.drain()
            return
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        try:
            up_writer.write(head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            up_writer.write(body[: length // 2] if fault in ("cut", "stall") else body)
            await up_writer.drain()
            if fault == "stall":
                self.stalled.set()
                await self.go_on.wait()
                up_writer.write(body[length // 2 :])
            if fault == "cut":
                return
            answer = await up_reader.read()
            if fault != "lost":
                writer.write(answer)
                await writer.drain()
        finally:
            up_writer.close()


class SmallDisk:
    """A file system of its own. Raises OSError where this user may not mount one."""

    def __init__(self, directory: Path, size: str) -> None:
        self.directory = directory
        directory.mkdir()
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory))

    def remount(self, options: str) -> None:
        """Such as `size=8m`, or `ro`."""
        self._run("mount", "-o", f"remount,{options}", str(self.directory))

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.directory)], check=True)

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr)
