"""Pictures behind signed addresses that expire, as object stores keep them."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field, replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from providers.simulator.drawing import CONTENT_TYPES
from providers.simulator.quotas import Clock
from providers.simulator.settings import SimulatorSettings

NOT_A_PICTURE = b"this is no picture"


@dataclass(frozen=True, slots=True)
class _Kept:
    data: bytes = field(repr=False)
    signature: str
    until_s: float


class Pictures:
    """The latest pictures by name. The end of a name is its format, as in `17.png`."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self.routes = [Route("/simulator/pictures/{name}", self._get, methods=["GET"])]

    def reset(self) -> None:
        """Forget all pictures."""
        self._kept.clear()

    def keep(self, name: str, data: bytes, *, dead: bool = False) -> None:
        """Keep a picture for `picture_ttl_s`. The address of a `dead` one has expired from the start."""
        until_s = self._clock() + (0.0 if dead else self._settings.picture_ttl_s)
        self._kept[name] = _Kept(data, secrets.token_hex(20), until_s)
        while len(self._kept) > self._settings.kept_pictures:
            self._kept.popitem(last=False)

    def url(self, name: str, request: Request) -> str:
        """The signed address of a picture."""
        signature = self._kept[name].signature if name in self._kept else "gone"
        return f"{request.base_url}simulator/pictures/{name}?q-signature={signature}"

    def renew(self, name: str) -> None:
        """Give a picture whose address has expired another address."""
        kept = self._kept.get(name)
        if kept is not None and kept.until_s <= self._clock():
            until_s = self._clock() + self._settings.picture_ttl_s
            self._kept[name] = replace(kept, signature=secrets.token_hex(20), until_s=until_s)

    async def _get(self, request: Request) -> Response:
        name = request.path_params["name"]
        kept = self._kept.get(name)
        if kept is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        if kept.until_s <= self._clock():
            return _error(403, "AccessDenied", "Request has expired.")
        if not secrets.compare_digest(kept.signature, request.query_params.get("q-signature", "")):
            return _error(403, "SignatureDoesNotMatch", "The signature does not match.")
        return Response(kept.data, media_type=CONTENT_TYPES[name.rpartition(".")[2]])


def _error(status: int, code: str, message: str) -> Response:
    """An error as object stores send it: XML, also to clients that want a picture."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Response(text, status, media_type="application/xml")
