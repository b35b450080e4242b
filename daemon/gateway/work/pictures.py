"""Pictures of callers, and how long a link to one lasts."""

from __future__ import annotations

from datetime import timedelta
from typing import IO, Final

from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.keyring import LINK_S
from daemon.gateway.gateway import Gateway
from daemon.storage.imaging import BadImage, in_picture_thread, inspect_image

LINK_LASTS: Final = timedelta(seconds=LINK_S)


async def keep_input(here: Gateway, tenant: str, file: IO[bytes]) -> dict[str, object]:
    """Check a picture and put it into the store. Raises Problem 422 for anything else; StorageError."""
    async with here.picture_turns:
        data = file.read()
        try:
            facts = await in_picture_thread(inspect_image, data)
        except BadImage as error:
            raise Problem(422, "invalid", f"This is no picture that can be used: {error}") from None
        key = input_key(tenant, facts.sha256)
        await here.store.put_image(key, data)
    return {"object": key, "sha256": facts.sha256, "width": facts.width, "height": facts.height}


def input_key(tenant: str, sha256: str) -> str:
    """The key of an uploaded picture."""
    return f"{tenant}/inputs/{sha256}"
