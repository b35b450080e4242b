"""Serves the page: its frame at the root, and its files. They need no key, since they hold no data."""

from __future__ import annotations

import re
from typing import Final

from fastapi import APIRouter, Request, Response

from daemon.gateway.answering.problems import not_found
from daemon.gateway.page.files import INDEX, VIEWS, Asset, assets, frame

router = APIRouter(include_in_schema=False)

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # kept, and compared by its tag: a new version is seen at once
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
}
_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
_CHINESE: Final = re.compile(r"zh\b", re.IGNORECASE)
# Made here, so no visitor waits for them, and a fault shows at the start.
_ASSETS: Final = assets()
_FRAMES: Final = {(view, words): frame(view, words) for view in VIEWS for words in ("en", "zh")}


@router.api_route("/", methods=["GET", "HEAD"])
async def root(request: Request) -> Response:
    """The frame of the page."""
    return _served(request, _FRAMES[_view(request), _language(request)], "Accept-Encoding, Accept-Language")


@router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
async def file(request: Request, path: str) -> Response:
    """A file of the page."""
    asset = _ASSETS.get(path)
    if asset is None or path == INDEX:  # its addresses are right at the root alone
        raise not_found()
    return _served(request, asset, "Accept-Encoding")


def _view(request: Request) -> str:
    """The view that an address names, as `core/router.js` reads it."""
    if request.query_params.get("view") == "new":
        return "new"
    return "batch" if request.query_params.get("batch") else "overview"


def _language(request: Request) -> str:
    """The language that the page will most likely choose: what a person chose before is known to the browser alone."""
    wanted = request.query_params.get("lang") or request.headers.get("accept-language", "")
    return "zh" if _CHINESE.match(wanted) else "en"


def _served(request: Request, asset: Asset, vary: str) -> Response:
    headers = {**_HEADERS, "ETag": asset.tag, "Vary": vary}
    if asset.tag in (tag.strip() for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    if _GZIP.search(request.headers.get("accept-encoding", "")):
        return Response(
            asset.gzipped, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.media_type
        )
    return Response(asset.plain, headers=headers, media_type=asset.media_type)
