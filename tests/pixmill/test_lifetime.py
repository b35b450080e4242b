"""A client ends what it began: at a close, at Ctrl-C, at the end of the program; no call waits for ever."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pixmill
from tests.pixmill.stub import UNAVAILABLE, Stub, async_client, sync_client

ROOT = Path(__file__).parents[2]
LONGEST_S = 20.0


def program(text: str, *given: str) -> subprocess.CompletedProcess[str]:
    """A program that must end by itself."""
    command = [sys.executable, "-c", text, *given]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=LONGEST_S)


def test_a_call_from_on_progress_is_refused_and_does_not_wait_for_itself() -> None:
    program(
        "import pixmill\nfrom tests.pixmill.stub import sync_client\nclient = sync_client()\n"
        "for call in (lambda *_: client.status('b1'), lambda *_: client.close()):\n"
        "    try:\n        client.wait('b1', on_progress=call)\n"
        "    except pixmill.PixmillError as error:\n        assert 'on_progress' in str(error)\n"
        "    else:\n        raise AssertionError\n"
    )


def test_a_close_ends_the_calls_of_other_threads_and_each_later_one() -> None:
    begun = threading.Event()
    stub = Stub(on_wait=begun.set)
    client = sync_client(stub)
    with ThreadPoolExecutor(1) as other:
        call = other.submit(client.status, "wait")
        assert begun.wait(LONGEST_S)
        client.close()
        with pytest.raises(pixmill.PixmillError, match="closed during the call"):
            call.result(LONGEST_S)
    assert (stub.left, stub.closed) == (1, 1)
    client.close()
    with pytest.raises(pixmill.PixmillError, match="closed: make a new one"):
        client.status("b1")


def test_a_forked_process_gets_a_sentence() -> None:
    done = program(
        "import os, pixmill\nfrom tests.pixmill.stub import sync_client\nclient = sync_client()\n"
        "client.status('b1')\n"
        "if os.fork() == 0:\n"
        "    try:\n        client.status('b1')\n"
        "    except pixmill.PixmillError as error:\n        print(error, flush=True)\n"
        "    client.close()\n    os._exit(0)\n"
        "os.wait()\nclient.status('b1')"
    )
    assert "forked process" in done.stdout


def test_a_watch_that_is_left_open_does_not_hold_the_end_of_the_program() -> None:
    done = program(
        "from tests.pixmill.stub import sync_client\nevents = sync_client().watch('b1')\nprint(next(events).type)"
    )
    assert (done.stdout, done.stderr) == ("batch.finished\n", "")


def test_ctrl_c_leaves_a_watch_as_ctrl_c() -> None:
    ours = threading.main_thread().ident
    assert ours is not None
    stub = Stub(on_wait=lambda: signal.pthread_kill(ours, signal.SIGINT))
    client = sync_client(stub)
    with pytest.raises(KeyboardInterrupt):
        for _ in client.watch("b1"):
            pass
    client.close()
    assert stub.left == 1


def test_ctrl_c_cuts_a_close_short() -> None:
    ours = threading.main_thread().ident
    assert ours is not None
    stub = Stub(on_wait=lambda: signal.pthread_kill(ours, signal.SIGINT))
    stub.close = stub._wait  # type: ignore[method-assign]  # one that takes long
    client = sync_client(stub)
    client.status("b1")
    with pytest.raises(KeyboardInterrupt):
        client.close()
    assert stub.left == 1


def test_the_end_of_the_program_ends_a_local_daemon_whose_logs_are_redacted(tmp_path: Path) -> None:
    done = program(
        "import os, pathlib, sys, structlog, pixmill\nos.chdir(sys.argv[1])\n"
        "client = pixmill.SyncClient.local()\nassert client.status('b1') is None\n"
        "log = structlog.get_logger('daemon')\n"
        "try:\n    planted = 'a prompt'\n    raise ValueError('https://h.example/a?sign=planted')\n"
        "except ValueError:\n    log.exception('failed', key='sk-planted0123456789')\n",
        str(tmp_path),
    )
    note = json.loads((tmp_path / ".pixmill/redis/server.json").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(note["pid"], 0)
    assert done.stdout == ""
    assert "failed" in done.stderr
    assert "planted" not in done.stderr.replace("planted = 'a prompt'", "")
    assert "a prompt" not in done.stderr


async def test_first_calls_at_once_open_once_and_a_second_try_may_succeed() -> None:
    stub = Stub(pixmill.NotRunningError("not yet"))
    client = async_client(stub)
    with pytest.raises(pixmill.NotRunningError):
        await client.status("b1")
    assert {each.id if each else None for each in await asyncio.gather(*map(client.status, "ab"))} == {"b1"}
    assert stub.opened == 2


async def test_a_daemon_that_did_not_start_is_tried_again(tmp_path: Path) -> None:
    client = pixmill.Client.local(tmp_path / "none.toml", data_dir=tmp_path)
    for _ in range(2):
        with pytest.raises(pixmill.NotRunningError, match=r"none\.toml does not exist"):
            await client.status("b1")


def test_each_client_is_opened_once_in_one_loop() -> None:
    client = async_client()

    async def used() -> None:
        async with client:
            pass

    asyncio.run(used())
    with pytest.raises(pixmill.PixmillError, match="closed"):
        asyncio.run(used())
    other = async_client()
    asyncio.run(other.status("b1"))
    with pytest.raises(pixmill.PixmillError, match="one for each loop"):
        asyncio.run(other.status("b1"))
    with sync_client() as third:
        third.status("b1")
    with pytest.raises(pixmill.PixmillError, match="closed"), third:
        pass


async def test_a_wait_outlasts_a_deploy() -> None:
    stub = Stub()
    client = async_client(stub)
    await client.status("b1")
    stub.faults = [UNAVAILABLE, UNAVAILABLE, None, UNAVAILABLE]  # None: that read works
    assert await client.wait("b1") == []
    assert stub.faults == []
