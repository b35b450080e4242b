"""`pixmill doctor`: one line a check, one document for programs, and an exit code for the worst of them."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import structlog

from daemon.gateway.callers.keys_file import add_key
from providers.simulator import Simulator, SimulatorSettings
from tests.daemon.cli.conftest import Pixmill
from tests.servers import RedisServer

KEY = "sk-planted-secret-0123456789abcdef"


@pytest.fixture(scope="module")
def durable() -> Iterator[RedisServer]:
    server = RedisServer(persistent=True)
    yield server
    server.close()


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(api_keys=(KEY,))) as running:
        yield running


@pytest.fixture(autouse=True)
def config(environment: dict[str, str], tmp_path: Path, durable: RedisServer, simulator: Simulator) -> None:
    environment["PIXMILL_REDIS__URL"] = durable.url
    environment["ROUTER_KEY"] = KEY
    (tmp_path / "pixmill.toml").write_text(
        f"""
[credentials.router]
provider = "openrouter"
wire = "chat"
base_url = "{simulator.openrouter_url}"
api_key_env = "ROUTER_KEY"

[routes.slides]
credential = "router"
model = "google/gemini-3.1-flash-image"
"""
    )


async def test_all_well_is_a_line_for_each_check_and_exit_code_0(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor")
    lines = [re.split(r" {2,}", line) for line in ran.out.splitlines()]
    assert [(state, check) for state, check, _ in lines] == [
        ("ok", "configuration"),
        ("ok", "descriptors"),
        ("ok", "certificates"),
        ("ok", "redis"),
        ("ok", "aof"),
        ("ok", "eviction"),
        ("ok", "scripts"),
        ("ok", "writes"),
        ("ok", "acl"),
        ("ok", "clock"),
        ("ok", "memory"),
        ("ok", "jobs"),
        ("ok", "groups"),
        ("ok", "storage"),
        ("ok", "credential router"),
    ]
    assert ran.code == 0


async def test_the_clock_of_the_store_is_compared_with_that_of_redis(
    pixmill: Pixmill, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ahead_s(_: object) -> float:
        return time.time() + 30

    monkeypatch.setattr("daemon.cli.commands.doctor.server_time_s", ahead_s)
    ran = await pixmill("doctor")
    assert "warn  storage" in ran.out
    assert "30 s behind that of Redis" in ran.out


async def test_a_check_that_breaks_spoils_no_document(
    pixmill: Pixmill, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: object) -> None:
        raise RuntimeError("\x1b]52;c;aGk=\x07")

    monkeypatch.setattr("daemon.cli.commands.doctor.check_storage", breaks)
    structlog.reset_defaults()
    ran = await pixmill("doctor", "--json")
    assert ran.document["ok"] is False
    assert "a check of the doctor broke" in ran.err
    assert "\x1b]" not in ran.err


async def test_programs_get_one_document(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor", "--json")
    assert ran.document["ok"] is True
    assert {check["state"] for check in ran.document["checks"]} == {"ok"}


async def test_a_revoked_key_is_a_partial_failure_and_is_not_shown(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor", "--json", ROUTER_KEY="sk-planted-but-revoked-0123456789")
    assert (ran.code, ran.document["ok"]) == (3, False)
    (failed,) = [check for check in ran.document["checks"] if check["state"] == "fail"]
    assert failed["check"] == "credential router"
    assert "planted" not in ran.out + ran.err


async def keys_line(pixmill: Pixmill, keys: Path) -> str:
    ran = await pixmill("doctor", PIXMILL_GATEWAY__KEYS_FILE=str(keys))
    assert ran.code == (3 if "fail" in ran.out else 0)
    (found,) = [line for line in ran.out.splitlines() if re.match(r"\w+ +keys ", line)]
    return found


async def test_a_gateway_needs_keys_that_it_can_read(pixmill: Pixmill, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    assert re.match(
        r"fail .* is not there; `pixmill key new NAME` makes it\.", await keys_line(pixmill, keys)
    )
    keys.write_text("{")
    assert (await keys_line(pixmill, keys)).startswith("fail")
    keys.write_text('{"keys": []}')
    assert re.match(r"warn .* has no key", await keys_line(pixmill, keys))
    add_key(keys, "shop", "shop", frozenset({"read"}))
    assert (await keys_line(pixmill, keys)).startswith("ok")


@pytest.mark.parametrize(("folder_mode", "state"), [(0o755, "warn"), (0o700, "ok")])
async def test_keys_that_everybody_may_read_are_a_warning(
    pixmill: Pixmill, folder_mode: int, state: str
) -> None:
    with TemporaryDirectory() as folder:  # nothing above it keeps others out, unlike a test's own
        keys = Path(folder) / "keys.json"
        add_key(keys, "shop", "shop", frozenset({"read"}))
        keys.chmod(0o644)
        os.chmod(folder, folder_mode)  # noqa: PTH101 - a path of its own would block
        line = await keys_line(pixmill, keys)
    assert line.startswith(state)
    assert (f"`chmod o-rwx {keys}`" in line) is (state == "warn")


async def test_without_redis_nothing_works(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor", "--redis-url", "redis://:planted@127.0.0.1:9/0")
    assert ran.code == 4
    assert [line for line in ran.out.splitlines() if line.startswith("fail")] == [
        line for line in ran.out.splitlines() if "does not answer" in line
    ]
    assert "planted" not in ran.out + ran.err


async def test_without_a_configured_redis_the_remedy_is_shown(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor", PIXMILL_REDIS__URL=None)
    assert ran.code == 4
    assert "start `pixmill up`" in ran.out


async def test_a_store_that_cannot_be_written_is_a_partial_failure(pixmill: Pixmill, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    ran = await pixmill("doctor", PIXMILL_STORAGE__URL=f"file://{tmp_path}/a-file/store")
    assert ran.code == 3
    assert re.search(r"fail +storage", ran.out)


async def test_a_quota_that_cannot_be_is_found(pixmill: Pixmill, tmp_path: Path) -> None:
    with (tmp_path / "pixmill.toml").open("a") as file:
        file.write('\n[quotas.main]\nimages = "many"\n')
    ran = await pixmill("doctor")
    assert ran.code == 3
    assert re.search(r"fail +configuration +.*main", ran.out)


NO_PROXIES = dict.fromkeys(("https_proxy", "http_proxy", "all_proxy", "NO_PROXY", "no_proxy"))


async def test_a_proxy_is_shown_with_what_leaves_by_it(pixmill: Pixmill) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    environ = {**NO_PROXIES, "HTTPS_PROXY": f"http://me:planted@{address}"}
    async with server:
        ran = await pixmill("doctor", **environ)
        assert re.search(
            rf"ok +proxy HTTPS_PROXY +Calls, results, .* by HTTPS_PROXY http://{address}\.", ran.out
        )
        ran = await pixmill("doctor", **environ, PIXMILL_NETWORK__PROXY="calls")
        assert f"Only calls to providers leave by HTTPS_PROXY http://{address}." in ran.out
        assert "planted" not in ran.out + ran.err


async def test_a_proxy_that_cannot_be_reached_is_a_partial_failure(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor", **NO_PROXIES, ALL_PROXY="socks5://me:planted@127.0.0.1:9")
    assert ran.code == 3
    assert re.search(r"fail +proxy ALL_PROXY +ALL_PROXY socks5://127.0.0.1:9 cannot be reached", ran.out)
    assert "planted" not in ran.out + ran.err


async def test_certificates_that_only_other_programs_read_are_a_warning(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor", SSL_CERT_FILE=None, SSL_CERT_DIR=None, REQUESTS_CA_BUNDLE="/etc/corp.pem")
    assert re.search(r'warn +certificates .* `export SSL_CERT_FILE="\$REQUESTS_CA_BUNDLE"`', ran.out)


async def test_a_machine_without_certificates_is_a_warning(
    pixmill: Pixmill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.doctor.way_out.trusted_authorities", lambda _: 0)
    ran = await pixmill("doctor")
    assert re.search(r"warn +certificates .* `apt-get install ca-certificates`", ran.out)


@pytest.mark.parametrize(("limit", "state", "code"), [(100, "warn", 0), (41, "fail", 3)])
async def test_too_few_descriptors_are_found_with_the_command_that_raises_them(
    pixmill: Pixmill, monkeypatch: pytest.MonkeyPatch, limit: int, state: str, code: int
) -> None:
    monkeypatch.setattr("daemon.cli.commands.doctor.raise_limit", lambda: limit)
    ran = await pixmill("doctor")
    assert re.search(rf"{state} +descriptors .*`ulimit -n \d+`", ran.out)
    assert ran.code == code


async def test_a_doubtful_quota_is_a_warning(pixmill: Pixmill, tmp_path: Path) -> None:
    with (tmp_path / "pixmill.toml").open("a") as file:
        file.write('\n[quotas.main]\nimages = { rate = "20/min", burst = 20 }\n')
    ran = await pixmill("doctor", "--json")
    assert ran.code == 0
    (warned,) = [check for check in ran.document["checks"] if check["state"] == "warn"]
    assert warned["check"] == "quotas"
    assert "up to 40 can leave within one min" in warned["says"]


async def test_a_proxy_that_cannot_be_used_ends_the_check_with_its_name(pixmill: Pixmill) -> None:
    ran = await pixmill("doctor", ALL_PROXY="socks://127.0.0.1:7890/", all_proxy=None)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("ALL_PROXY is socks://127.0.0.1:7890/, and socks:// is no form of a proxy")
