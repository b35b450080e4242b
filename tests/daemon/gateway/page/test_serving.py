"""The page's files: what is served, to whom, and with which headers."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx2
import pytest
from starlette.routing import Mount, Router

from daemon.gateway.app import create_app
from daemon.gateway.page.files import ASSETS, STYLE, STYLES, VIEWS, WORDS, assets
from providers.http.asgi import AsgiServer
from tests.daemon.gateway.callers.conftest import keys_file, locked
from tests.daemon.gateway.rig import Door, refusal

__all__ = ["keys_file", "locked"]

FILES = sorted(name for name in assets() if name != "index.html")
LINK = re.compile(r'(?:href|src)="([^"]+)"')
IMPORT = re.compile(r'(?:[}\w] ?from|^import|\bimport\() ?"([^"]+)"', re.MULTILINE)


async def test_the_policy_lets_the_page_load_from_its_own_gateway_alone(quiet_door: Door) -> None:
    answer = await quiet_door.http.get("/")
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", ["", *(f"page/{name}" for name in FILES)])
async def test_each_file_is_typed_and_is_never_guessed(quiet_door: Door, name: str) -> None:
    answer = await quiet_door.http.get(f"/{name}")
    kinds = {"": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == kinds[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


async def test_a_file_that_is_known_is_not_sent_again(quiet_door: Door) -> None:
    first = await quiet_door.http.get("/page/main.js")
    tag = first.headers["etag"]
    again = await quiet_door.http.get("/page/main.js", headers={"if-none-match": f'"x", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = await quiet_door.http.get("/page/main.js", headers={"if-none-match": '"x"'})
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip", "gzip"), ("br, gzip;q=0.5", "gzip"), ("gzip;q=0", None), ("identity", None), ("", None)],
)
async def test_the_small_form_goes_only_to_clients_that_take_it(
    quiet_door: Door, accepted: str, encoding: str | None
) -> None:
    wanted = {"accept-encoding": accepted}
    async with quiet_door.http.stream("GET", "/page/main.js", headers=wanted) as answer:
        sent = b"".join([part async for part in answer.aiter_raw()])
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert (gzip.decompress(sent) if encoding else sent) == assets()["main.js"].plain


@pytest.mark.parametrize(
    "path",
    ["..%2fserving.py", "%2e%2e/files.py", "..%2f..%2f..%2f..%2fpyproject.toml", "core/", "", "index.html",
     "vendor/lit-html/LICENSE", "/etc/passwd", "main.js%00", "core\\api.js"],
)  # fmt: skip
async def test_nothing_else_on_the_disk_is_served(quiet_door: Door, path: str) -> None:
    assert refusal(await quiet_door.http.get(f"/page/{path}")) == (404, "not_found", None)


async def test_the_page_takes_no_writes(quiet_door: Door) -> None:
    answer = await quiet_door.http.post("/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_the_page_needs_no_key_and_its_data_does(locked: Door) -> None:
    statuses = [(await locked.http.get(path)).status_code for path in ("/", "/page/main.js", "/v1/batches")]
    assert statuses == [200, 200, 401]


async def test_without_keys_other_names_of_this_machine_get_no_page(quiet_door: Door) -> None:
    assert (await quiet_door.http.get("/", headers={"host": "evil.example"})).status_code == 421


async def test_every_address_of_the_page_works_below_a_prefix(quiet_door: Door) -> None:
    server = AsgiServer(Router([Mount("/pixmill", create_app(quiet_door.gateway))]))
    await server.start()
    try:
        async with httpx2.AsyncClient(base_url=server.url, follow_redirects=True) as http:
            frame = await http.get("/pixmill")
            assert str(frame.url) == f"{server.url}/pixmill/"
            links = [frame.url.join(link) for link in LINK.findall(frame.text)]
            assert len(links) > len(FILES) // 2
            assert {(await http.get(link)).status_code for link in links} == {200}
    finally:
        await server.stop()


async def test_requests_count_under_the_template_of_the_page(quiet_door: Door) -> None:
    await quiet_door.http.get("/page/core/api.js")
    await quiet_door.http.get("/page/nothing.js")
    (family,) = quiet_door.gateway.metrics.http_requests.collect()
    labels = {sample.labels["route_template"] for sample in family.samples}
    assert "/page/{path:path}" in labels
    assert not any("api.js" in label for label in labels)


@pytest.mark.parametrize(
    ("query", "accepted", "view", "language"),
    [
        ("", "en", "overview", "en"),
        ("?batch=b", "zh-CN,zh;q=0.9", "batch", "zh"),
        ("?view=new&batch=b&lang=zh", "en", "new", "zh"),
        ("?batch=b&lang=en", "zh", "batch", "en"),
        ("?batch=", "", "overview", "en"),
    ],
)
async def test_the_frame_loads_at_once_what_its_first_view_needs(
    quiet_door: Door, query: str, accepted: str, view: str, language: str
) -> None:
    answer = await quiet_door.http.get(f"/{query}", headers={"accept-language": accepted})
    assert answer.headers["vary"] == "Accept-Encoding, Accept-Language"
    links = {link.removeprefix("page/") for link in LINK.findall(answer.text)}
    others = tuple(f"{each}/" for each in VIEWS if each != view)
    words = [f"{WORDS}{language}{room}.js" for room in ("", "_batch", "_new")]
    shared = [name for name in FILES if not name.startswith((WORDS, *others))]
    assert links & set(FILES) == {*shared, *words}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_imports_nothing_of_another_view(view: str) -> None:
    others = tuple(f"../{each}/" for each in VIEWS if each != view)
    for name in (name for name in FILES if name.startswith(f"{view}/")):
        assert not [to for to in IMPORT.findall(assets()[name].plain.decode()) if to.startswith(others)]


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("vendor/")])
def test_comments_and_indentation_are_not_served_and_all_code_is(name: str) -> None:
    served = assets()[name].plain.decode()
    sources = STYLES if name == STYLE else (name,)
    source = "".join((ASSETS / each).read_text("utf-8") for each in sources)
    assert not [line for line in served.splitlines() if line.startswith((" ", "//", "/*", "*/"))]
    assert " // " not in served
    code = [line.split(" // ")[0].strip() for line in source.splitlines()]
    assert [line for line in served.splitlines() if line] == [
        line for line in code if line and line != "*" and not line.startswith(("/*", "* ", "*/", "//"))
    ]


def test_all_styles_are_one_file() -> None:
    assert sorted(STYLES) == sorted(path.relative_to(ASSETS).as_posix() for path in ASSETS.rglob("*.css"))
    assert [name for name in FILES if name.endswith(".css")] == [STYLE]


def test_the_licence_of_the_library_is_served_with_it() -> None:
    assert b"@license" in assets()["vendor/lit-html/lit-html.js"].plain


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_each_import_names_a_file_of_the_page(name: str) -> None:
    for target in IMPORT.findall(assets()[name].plain.decode()):
        assert target.startswith("."), f"{name} imports {target}, which no browser finds"
        path = Path(name).parent.joinpath(target)
        assert (ASSETS / path).resolve().is_relative_to(ASSETS)
        assert (ASSETS / path).is_file(), f"{name} imports {target}"


def test_the_vendored_library_has_its_licence() -> None:
    licence = (ASSETS / "vendor" / "lit-html" / "LICENSE").read_text("utf-8")
    assert licence.startswith("BSD 3-Clause License")
