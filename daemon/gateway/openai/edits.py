"""Reads the form of an edit: text fields, up to 16 pictures, and perhaps a mask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Any, Final

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.access import Caller
from daemon.gateway.gateway import Gateway
from daemon.gateway.work.pictures import keep_input
from pixmill.contract.fields import whole_number

TYPE: Final = "multipart/form-data"
MOST_PICTURES: Final = 16
MOST_FIELDS: Final = 64
FIELD_BYTES: Final = 64 * 1024
READ_BYTES: Final = 256 * 1024
_PICTURES: Final = ("image", "image[]")
_NUMBERS: Final = ("n", "seed", "output_compression", "partial_images")
_FLAGS: Final = {"true": True, "false": False}


async def read_edit(request: Request, here: Gateway, caller: Caller) -> dict[str, Any]:
    """The fields of an edit; its pictures are in the store, and are named under `inputs`. Raises Problem."""
    each = here.settings.network.max_input_bytes
    most = (MOST_PICTURES + 1) * each + 1024**2
    # The parts are files of their own while they are read.
    async with (
        here.uploads.spooled(request, caller.tenant, most, (TYPE,), copies=2) as body,
        here.form_turns,
        _parsed(request, body) as form,
    ):
        return await _fields(here, caller, form, each)


@asynccontextmanager
async def _parsed(request: Request, body: IO[bytes]) -> AsyncIterator[list[tuple[str, Any]]]:
    parser = MultiPartParser(
        request.headers,
        _chunks(body),
        max_files=MOST_PICTURES + 1,
        max_fields=MOST_FIELDS,
        max_part_size=FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        what = error.message if isinstance(error, MultiPartException) else "it cannot be read"
        raise Problem(400, "malformed", f"The form is broken: {what}.") from None
    try:
        yield form.multi_items()
    finally:
        await form.close()


async def _chunks(body: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while chunk := body.read(READ_BYTES):
        yield chunk
        await asyncio.sleep(0)  # others are served between two chunks
    yield b""


async def _fields(here: Gateway, caller: Caller, form: list[tuple[str, Any]], each: int) -> dict[str, Any]:
    body: dict[str, Any] = {}
    inputs: list[dict[str, Any]] = []
    for name, value in form:
        if name in (*_PICTURES, "mask"):
            role = "mask" if name == "mask" else "image"
            inputs.append(await _kept(here, caller, name, value, role, each))
        elif isinstance(value, UploadFile):
            raise Problem(400, "unknown_parameter", f"Unknown parameter: '{name}'.", field=name)
        elif name in body:
            raise Problem(400, "invalid", f"`{name}` is given twice.", field=name)
        else:
            body[name] = _typed(name, value)
    if not any(one["role"] == "image" for one in inputs):
        raise Problem(400, "invalid", "`image` is missing: send at least one picture.", field="image")
    return {**body, "inputs": inputs}


async def _kept(here: Gateway, caller: Caller, name: str, value: Any, role: str, each: int) -> dict[str, Any]:
    if not isinstance(value, UploadFile):
        raise Problem(400, "invalid", f"`{name}` must be a file.", field=name)
    if (value.size or 0) > each:
        raise Problem(413, "too_large", f"A picture may have at most {each // 1024**2} MiB.", field=name)
    try:
        kept = await keep_input(here, caller.tenant_for(None), value.file)
    except Problem as problem:
        problem.field = name
        raise
    return {"object": kept["object"], "sha256": kept["sha256"], "role": role}


def _typed(name: str, text: str) -> Any:
    """The value of a text field, as JSON would have it; what cannot be read stays a text, and is refused as one."""
    try:
        f"{name}{text}".encode()
    except UnicodeEncodeError:  # its sender chose a charset that makes halves of characters
        raise Problem(400, "malformed", "The form is broken: a text is not in UTF-8.") from None
    if name in _NUMBERS and (number := whole_number(text)) is not None:
        return number
    return _FLAGS.get(text, text) if name == "stream" else text
