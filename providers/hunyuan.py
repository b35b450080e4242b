"""Tencent Hunyuan Image 3.0, over one of three wires that the credential names.

`tc3` is Tencent Cloud's signed API, which Tencent is retiring; `tokenhub_async` and `tokenhub_sync` are its
successors. Requests, refusals and receipts look the same from outside, whichever wire carries them.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import httpx2

from providers.base import Capabilities, Generated, Pending, Picture, Request, Scalar, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http import Answer, create_client, send_once
from providers.hunyuan_rules import MAX_INPUTS, MAX_PROMPT_CHARS, SEED_RANGE, Rules, Wanted, wanted
from providers.hunyuan_tc3 import DEFAULT_REGION, Tc3Wire
from providers.hunyuan_tokenhub import TokenHubSyncWire, TokenHubTaskWire
from providers.pictures import fetch_picture

POLL_TIMEOUT_S = 30.0
WIRES = ("tc3", "tokenhub_async", "tokenhub_sync")

_OPTIONS = ("wire", "region", "revise", "logo_add", "allow_hosts")


class Wire(Protocol):
    """Makes requests and reads answers; raises ProviderError. Sends nothing itself."""

    @property
    def mode(self) -> Literal["sync", "task"]: ...

    @property
    def url_ttl_s(self) -> float | None: ...

    @property
    def rules(self) -> Rules: ...

    def submit_request(self, model: str, wanted: Wanted, /) -> httpx2.Request: ...

    def accepted(self, answer: Answer, model: str, wanted: Wanted, /) -> Submitted | Generated: ...

    def poll_request(self, submitted: Submitted, /) -> httpx2.Request: ...

    def progress(self, answer: Answer, /) -> Pending | Generated: ...


def create(
    *,
    base_url: str | None,
    secrets: Mapping[str, str],
    options: Mapping[str, str],
    now: Callable[[], float] = time.time,
) -> HunyuanProvider:
    """A provider for one credential; raises ValueError with a sentence.

    Secrets: `secret_id` and `secret_key` for wire tc3, `api_key` for the two TokenHub wires. Options: `wire`
    (default tc3), `region` (of tc3; default ap-guangzhou), `revise` and `logo_add` ("true" or "false", for jobs
    that do not say it themselves; Tencent's own default is to rewrite prompts and to mark pictures visibly),
    `allow_hosts` (hosts, by comma, whose result addresses may be plain http or private). `now` is the Unix time
    that tc3 signs.
    """
    for name in options:
        if name not in _OPTIONS:
            raise ValueError(f"{name!r} is not an option of the hunyuan provider.{_near(name, _OPTIONS)}")
    wire = options.get("wire", "tc3")
    if wire not in WIRES:
        known = ", ".join(WIRES)
        raise ValueError(
            f"{wire!r} is not a wire of the hunyuan provider; it has {known}.{_near(wire, WIRES)}"
        )
    if "region" in options and wire != "tc3":
        raise ValueError(f"The wire {wire} has no regions: leave `region` out.")
    names = ("secret_id", "secret_key") if wire == "tc3" else ("api_key",)
    return HunyuanProvider(wire, base_url, [_secret(secrets, name, wire) for name in names], options, now)


class HunyuanProvider:
    """One account at Tencent Cloud or at TokenHub."""

    name = "hunyuan"

    def __init__(
        self,
        wire: str,
        base_url: str | None,
        secrets: list[str],
        options: Mapping[str, str],
        now: Callable[[], float],
    ) -> None:
        default = Tc3Wire.default_base_url if wire == "tc3" else TokenHubTaskWire.default_base_url
        url = _base_url(base_url or default, wire)
        self._defaults = {name: _boolean(options, name) for name in ("revise", "logo_add") if name in options}
        self._host = url.host
        self._secrets = tuple(secrets)
        # The operator named the base address, so pictures may come from there whatever kind of address it is.
        own = f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
        listed = (part.strip() for part in options.get("allow_hosts", "").split(","))
        self._allow_hosts = (own, *(host for host in listed if host))
        self._client = create_client(str(url))
        self._wire = self._opened(wire, url, options.get("region", DEFAULT_REGION), now)
        for name in self._defaults:
            if name not in self._wire.rules.params:
                raise ValueError(f"The wire {wire} has no `{name}`: leave the option out.")

    def __repr__(self) -> str:
        return f"HunyuanProvider({self._wire!r})"

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 (every model of a wire is alike)
        return Capabilities(
            mode=self._wire.mode,
            max_prompt_chars=MAX_PROMPT_CHARS,
            max_inputs=MAX_INPUTS,
            seed_range=SEED_RANGE,
            url_ttl_s=self._wire.url_ttl_s,
        )

    def check(self, request: Request) -> None:
        """See Provider.check. Output format and quality are the caller's: the provider has no choice of them."""
        self._wanted(request)

    async def submit(self, request: Request, *, timeout_s: float) -> Submitted | Generated:
        """One POST. See Provider.submit."""
        wanted_ = self._wanted(request)
        http_request = self._wire.submit_request(request.model, wanted_)
        try:
            answer = await send_once(self._client, http_request, timeout_s=timeout_s)
            return self._wire.accepted(answer, request.model, wanted_)
        except ProviderError as error:
            raise self._without_secrets(error) from None

    async def poll(self, submitted: Submitted) -> Pending | Generated:
        """See Provider.poll. A refused poll is a `poll_error`: what was bought is not given up for it."""
        http_request = self._wire.poll_request(submitted)
        try:
            answer = await send_once(
                self._client, http_request, timeout_s=POLL_TIMEOUT_S, lost=ErrorKind.POLL_ERROR
            )
            return self._wire.progress(answer)
        except ProviderError as error:
            raise self._without_secrets(error) from None

    async def cancel(self, submitted: Submitted) -> bool:  # noqa: ARG002 (the interface's signature)
        """Always False: Tencent runs what it has accepted."""
        return False

    async def fetch(self, picture: Picture) -> bytes:
        """See Provider.fetch and `fetch_picture`."""
        return await fetch_picture(picture, host=self._host, allow_hosts=self._allow_hosts)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _wanted(self, request: Request) -> Wanted:
        return wanted(request, self._wire.rules, self._defaults)

    def _opened(self, wire: str, url: httpx2.URL, region: str, now: Callable[[], float]) -> Wire:
        if wire == "tc3":
            secret_id, secret_key = self._secrets
            return Tc3Wire(self._client, url, secret_id, secret_key, region, now)
        if wire == "tokenhub_sync":
            return TokenHubSyncWire(self._client, url, *self._secrets)
        return TokenHubTaskWire(self._client, url, *self._secrets)

    def _without_secrets(self, error: ProviderError) -> ProviderError:
        """Providers quote keys in their messages, in forms that no pattern foresees."""
        for secret in self._secrets:
            error.message = error.message.replace(secret, "***")
        error.args = (error.message,)
        return error


def _base_url(text: str, wire: str) -> httpx2.URL:
    url = httpx2.URL(text)
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise ValueError("base_url must be an http(s) URL without user, password and query.")
    if wire == "tc3" and url.path not in ("", "/"):
        raise ValueError("base_url must be a host without a path: the wire tc3 signs the path /.")
    return url


def _secret(secrets: Mapping[str, str], name: str, wire: str) -> str:
    value = secrets.get(name, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        needs = "the secrets `secret_id` and `secret_key`" if wire == "tc3" else "the secret `api_key`"
        raise ValueError(
            f"The wire {wire} of the hunyuan provider needs {needs}: one line of printable ASCII each."
        )
    return value


def _boolean(options: Mapping[str, str], name: str) -> Scalar:
    text = options[name].lower()
    if text not in ("true", "false"):
        raise ValueError(f'The option `{name}` must be "true" or "false".')
    return text == "true"


def _near(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
