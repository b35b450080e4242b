"""Serves the page: its frame at the root, and its files. They need no key, since they hold no data."""

from __future__ import annotations

import re
from typing import Final

from fastapi import APIRouter, Request, Response

from daemon.gateway.answering.problems import not_found
from daemon.gateway.page.files import INDEX, Asset, assets

router = APIRouter(include_in_schema=False)

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Cache-Control": "no-cache",  # kept, and compared by its tag: a new version is seen at once
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
}
_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", re.IGNORECASE)
_ASSETS: Final = assets()  # no visitor waits for them, and a fault shows at the start


@router.api_route("/", methods=["GET", "HEAD"])
async def frame(request: Request) -> Response:
    """The frame of the page."""
    return _served(request, _ASSETS[INDEX])


@router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
async def file(request: Request, path: str) -> Response:
    """A file of the page."""
    asset = _ASSETS.get(path)
    if asset is None or path == INDEX:  # its addresses are right at the root alone
        raise not_found()
    return _served(request, asset)


def _served(request: Request, asset: Asset) -> Response:
    headers = {**_HEADERS, "ETag": asset.tag}
    if asset.tag in (tag.strip() for tag in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    if _GZIP.search(request.headers.get("accept-encoding", "")):
        return Response(
            asset.gzipped, headers={**headers, "Content-Encoding": "gzip"}, media_type=asset.media_type
        )
    return Response(asset.plain, headers=headers, media_type=asset.media_type)
