"""Tencent Hunyuan Image 3.0, over one of three wires that the credential names.

`tc3` is Tencent Cloud's signed API, which Tencent is retiring; `tokenhub_async` and `tokenhub_sync` are its
successors. Requests, refusals and receipts look the same from outside, whichever wire carries them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import httpx2

from providers.base import Capabilities, Generated, Pending, Request, Submitted
from providers.errors import ErrorKind
from providers.http.client import Answer
from providers.hunyuan.rules import MAX_INPUTS, MAX_PROMPT_CHARS, SEED_RANGE, Rules, Wanted, wanted
from providers.hunyuan.tc3 import DEFAULT_REGION, Tc3Wire
from providers.hunyuan.tokenhub import TokenHubSyncWire, TokenHubTaskWire
from providers.shared.account import base_address, check_header_options, check_options, chosen, secret_of
from providers.shared.http_provider import HttpProvider

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
    check_options("hunyuan", options, _OPTIONS)
    check_header_options(options, ("region",))
    wire = chosen(options, "wire", WIRES, default="tc3")
    if "region" in options and wire != "tc3":
        raise ValueError(f"The wire {wire} has no regions: leave `region` out.")
    names = ("secret_id", "secret_key") if wire == "tc3" else ("api_key",)
    named = f"hunyuan (wire {wire})"
    return HunyuanProvider(wire, base_url, [secret_of(named, secrets, name) for name in names], options, now)


class HunyuanProvider(HttpProvider):
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
        url = _address(base_url or default, wire)
        super().__init__(url, secrets, options)
        self._defaults = {
            name: chosen(options, name, ("true", "false"), default="") == "true"
            for name in ("revise", "logo_add")
            if name in options
        }
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
        return await self._call(
            http_request,
            lambda answer: self._wire.accepted(answer, request.model, wanted_),
            timeout_s=timeout_s,
        )

    async def poll(self, submitted: Submitted) -> Pending | Generated:
        """See Provider.poll. A refused poll is a `poll_error`: what was bought is not given up for it."""
        return await self._call(
            self._wire.poll_request(submitted),
            self._wire.progress,
            timeout_s=POLL_TIMEOUT_S,
            lost=ErrorKind.POLL_ERROR,
        )

    def _wanted(self, request: Request) -> Wanted:
        return wanted(request, self._wire.rules, self._defaults)

    def _opened(self, wire: str, url: httpx2.URL, region: str, now: Callable[[], float]) -> Wire:
        if wire == "tc3":
            secret_id, secret_key = self._secrets
            return Tc3Wire(self._client, url, secret_id, secret_key, region, now)
        if wire == "tokenhub_sync":
            return TokenHubSyncWire(self._client, url, *self._secrets)
        return TokenHubTaskWire(self._client, url, *self._secrets)


def _address(text: str, wire: str) -> httpx2.URL:
    url = base_address(text)
    if wire == "tc3" and url.path not in ("", "/"):
        raise ValueError("base_url must be a host without a path: the wire tc3 signs the path /.")
    return url
