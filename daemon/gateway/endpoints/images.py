"""The pictures themselves, and their thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import structlog
from fastapi import APIRouter, Depends, Header, Response

from daemon.files.archive import safe_name
from daemon.gateway.answering.memory import HeldResponse
from daemon.gateway.answering.problems import Problem, not_found
from daemon.gateway.callers.access import Reader
from daemon.gateway.gateway import Gateway, Here
from daemon.gateway.requests.parameters import flag
from daemon.gateway.work.finding import find_item, find_job
from daemon.gateway.work.pictures import LINK_LASTS
from daemon.storage.imaging import BadImage, in_picture_thread, thumbnail
from daemon.storage.keeper import thumb_key
from daemon.storage.object_store import StorageError
from pixmill.records.keys import Uid
from pixmill.records.records import ItemView

router = APIRouter(tags=["pictures"])
log = structlog.get_logger(__name__)

FOREVER: Final = "private, max-age=31536000, immutable"
# A picture is of others: a browser that opens it alone runs nothing and loads nothing.
ALONE: Final = "default-src 'none'; sandbox"


class Form(NamedTuple):
    """The form in which a picture is wanted; `known` are the tags of those that the caller has."""

    is_thumb: bool
    is_inline: bool
    known: Sequence[str]


async def _form(
    thumb: str | None = None,
    inline: str | None = None,
    if_none_match: Annotated[str, Header(include_in_schema=False)] = "",
) -> Form:
    tags = [tag.strip() for tag in if_none_match.split(",")]
    return Form(flag("thumb", thumb), flag("inline", inline), tags)


Wanted = Annotated[Form, Depends(_form)]


@router.get("/v1/jobs/{ident}/images/{k}")
async def of_job(
    here: Here, caller: Reader, form: Wanted, ident: str, k: str, tenant: str | None = None
) -> Response:
    """Picture `k` of a job, from 0: its bytes, or a link to the store that lasts an hour."""
    owner, number = caller.tenant_for(tenant), _number(k)
    view = await find_job(here, owner, ident)
    if isinstance(view, ItemView):
        return await _picture(here, view, number, form)
    return await _picture(here, await here.records.item(Uid(owner, "", f"{ident}.{number}")), 0, form)


@router.get("/v1/batches/{batch}/items/{ident}/images/{k}")
async def of_item(
    here: Here, caller: Reader, form: Wanted, batch: str, ident: str, k: str, tenant: str | None = None
) -> Response:
    """Picture `k` of an item of a batch, from 0."""
    item = await find_item(here, caller.tenant_for(tenant), batch, ident)
    return await _picture(here, item, _number(k), form)


async def _picture(here: Gateway, item: ItemView | None, k: int, form: Form) -> Response:
    if item is None or not 0 <= k < len(item.images):
        raise not_found()
    image = item.images[k]
    tag = f'"{image["sha256"]}{"-thumb" if form.is_thumb else ""}"'
    if tag in form.known:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": FOREVER})
    if form.is_thumb:
        small = await _thumb(here, image)
        return Response(small, headers=_headers(tag, f"{item.id}.webp"), media_type="image/webp")
    if not form.is_inline and (link := await here.store.link(image["key"], LINK_LASTS)) is not None:
        return Response(status_code=302, headers={"Location": link})
    name = f"{item.id}.{image['key'].rpartition('.')[2]}"
    give_back = await here.memory.take(int(image["bytes"]))
    try:
        data = await _stored(here, image)
        return HeldResponse(data, _headers(tag, name), image["content_type"], give_back)
    except BaseException:
        give_back()
        raise


async def _thumb(here: Gateway, image: dict[str, Any]) -> bytes:
    """The thumbnail; it is made again where the store has none."""
    key = thumb_key(image["key"])
    if (found := await here.store.get(key)) is not None:
        return found
    async with here.picture_turns:
        try:
            small = await in_picture_thread(thumbnail, await _stored(here, image))
        except BadImage:
            raise _gone() from None
    try:
        await here.store.put_image(key, small)
    except StorageError as error:
        log.warning("no thumbnail", key=key, error=str(error))
    return small


async def _stored(here: Gateway, image: dict[str, Any]) -> bytes:
    data = await here.store.get(image["key"])
    if data is None:
        raise _gone()
    return data


def _gone() -> Problem:
    return Problem(404, "picture_gone", "The record is here, but the store has this picture no more.")


def _headers(tag: str, name: str) -> dict[str, str]:
    return {
        "ETag": tag,
        "Cache-Control": FOREVER,
        "Content-Security-Policy": ALONE,
        "Content-Disposition": f'inline; filename="{safe_name(name)}"',
    }


def _number(text: str) -> int:
    """Which picture; -1, which no item has, for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else -1
