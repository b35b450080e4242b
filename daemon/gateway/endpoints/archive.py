"""The finished pictures of a batch or a job as one ZIP, sent while it is made: one picture in memory at a time."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from typing import Final

import structlog
from fastapi import APIRouter, Response
from starlette.responses import StreamingResponse

from daemon.files.archive import (
    MANIFEST,
    TABLE,
    WENT,
    Picture,
    fetch,
    manifest,
    pictures_of,
    safe_name,
    table,
)
from daemon.files.prompt_template import PromptTemplate
from daemon.gateway.answering.problems import bad_parameter
from daemon.gateway.callers.access import Reader
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.work.finding import find_batch

router = APIRouter(tags=["batches"])
log = structlog.get_logger(__name__)

LOOKED_AT_ONCE: Final = 32
MOST_NAME_CHARS: Final = 200


@router.get("/v1/batches/{ident}/archive.zip")
async def archive(
    here: Here, caller: Reader, ident: str, names: str | None = None, tenant: str | None = None
) -> Response:
    """The pictures that are finished so far: manifest.json and manifest.csv first, then the pictures.

    `names` makes the name of each file of its id and metadata, as in `{sku}/{stem}`.
    """
    template = _template(names)
    view = await find_batch(here, caller.tenant_for(tenant), ident)
    items = await here.records.all_members(view.gid)
    # Ten thousand items take seconds, and other requests must not wait for them.
    pictures = await asyncio.to_thread(pictures_of, items, template)
    # Before the first byte: a store that is away is an answer of its own, not a broken archive.
    lacking = await _lacking(here, pictures)
    head = await asyncio.to_thread(
        lambda: {MANIFEST: manifest(view, items, pictures, lacking), TABLE: table(pictures, lacking)}
    )
    there = [picture for picture in pictures if picture.file not in lacking]
    headers = {"Content-Disposition": f'attachment; filename="{safe_name(ident)}.zip"'}
    return StreamingResponse(_zipped(here, head, there), headers=headers, media_type="application/zip")


async def _zipped(here: Gateway, head: dict[str, bytes], pictures: Sequence[Picture]) -> AsyncIterator[bytes]:
    sink, problems = _Sink(), []
    # It is closed at a good end alone: if the reader goes away, a thread may still write into it.
    archive = zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED)  # pictures are compressed already
    for name, content in head.items():
        await asyncio.to_thread(archive.writestr, name, content)
    for picture in pictures:
        yield sink.taken()
        data = await fetch(here.store, picture)
        if isinstance(data, str):
            problems.append(data)
        else:
            await asyncio.to_thread(archive.writestr, picture.file, data)
    if problems:
        # The manifest is with the reader by now.
        log.warning("pictures went while they were archived", problems=problems)
        archive.writestr(WENT, "\n".join(problems))
    archive.close()
    yield sink.taken()


async def _lacking(here: Gateway, pictures: Sequence[Picture]) -> set[str]:
    """The files whose pictures the store has not. Raises StorageError when it is away."""
    lacking = set()
    for start in range(0, len(pictures), LOOKED_AT_ONCE):
        page = pictures[start : start + LOOKED_AT_ONCE]
        found = await asyncio.gather(*(here.store.exists(picture.image["key"]) for picture in page))
        lacking |= {picture.file for picture, is_there in zip(page, found, strict=True) if not is_there}
    return lacking


class _Sink(io.RawIOBase):
    """The sink of a ZIP: it cannot be sought, and holds one picture at most."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]  # whatever has bytes, as the base says
        self._parts.append(part)
        return len(part)

    def taken(self) -> bytes:
        """The bytes since the last time."""
        whole = b"".join(self._parts)
        self._parts.clear()
        return whole


def _template(names: str | None) -> PromptTemplate | None:
    if names is None:
        return None
    if len(names) > MOST_NAME_CHARS:
        raise bad_parameter("names", f"`names` may have {MOST_NAME_CHARS} characters.")
    try:
        return PromptTemplate(names)
    except ValueError as error:
        raise bad_parameter("names", f"`names`: {error}") from None
