"""OpenRouter: pictures of many makers' models for one key, by chat completions or by its images endpoint.

One POST makes one picture. Its `usage` tells what it cost. An answer of 200 may hold an error, or only words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from providers.base import Capabilities, CredentialCheck, Generated, Picture, Request
from providers.errors import ProviderError
from providers.http.client import Answer
from providers.openrouter.errors import no_picture, refusal, request_id_of
from providers.openrouter.models import MAX_INPUT_BYTES, MAX_INPUTS, MAX_PROMPT_CHARS, SEED_RANGE
from providers.openrouter.wires import WIRES
from providers.shared.account import check_options, chosen, listed, secret_of
from providers.shared.checks import (
    check_inputs,
    check_output,
    check_params,
    check_prompts,
    check_seed,
    invalid,
)
from providers.shared.json_answers import amount, answered_object, pictures_in, usage_in
from providers.shared.one_call import OneCallProvider
from providers.shared.refusals import error_in, json_object, word

DEFAULT_BASE_URL = "https://openrouter.ai/api/v1"
CURRENCY = "USD"  # credits are dollars

_OPTIONS = ("wire", "modalities", "referer", "title", "params", "allow_hosts")


def create(
    *, base_url: str | None, secrets: Mapping[str, str], options: Mapping[str, str]
) -> OpenRouterProvider:
    """A provider for one credential; raises ValueError with a sentence.

    Secrets: `api_key`. Options: `wire` ("chat", the default, or "images"), `modalities` ("image" or "image,text",
    for models whose name does not tell), `params` (further parameter names to let through, by comma),
    `allow_hosts` (hosts, by comma, whose result addresses may be plain http or private), `referer` and `title`
    (what OpenRouter shows of the application; nothing is sent without them).
    """
    check_options("openrouter", options, _OPTIONS)
    chosen(options, "wire", WIRES, default="chat")
    if not set(listed(options.get("modalities"))) <= {"image", "text"}:
        raise ValueError('The option \'modalities\' is "image" or "image,text".')
    return OpenRouterProvider(base_url or DEFAULT_BASE_URL, secret_of("openrouter", secrets), options)


class OpenRouterProvider(OneCallProvider):
    """One account at OpenRouter, over one of its wires."""

    name = "openrouter"
    option_headers: Mapping[str, str] = {"referer": "HTTP-Referer", "title": "X-Title"}

    def __init__(self, base_url: str, api_key: str, options: Mapping[str, str]) -> None:
        super().__init__(base_url, api_key, options)
        self._wire = WIRES[chosen(options, "wire", WIRES, default="chat")]

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 (the interface's signature)
        """See Provider.capabilities; the same for every model, as far as OpenRouter documents it."""
        return Capabilities(
            mode="sync",
            max_prompt_chars=MAX_PROMPT_CHARS,
            max_inputs=MAX_INPUTS,
            seed_range=SEED_RANGE,
            url_ttl_s=None,
            currency=CURRENCY,
        )

    def check(self, request: Request) -> None:
        """See Provider.check."""
        check_prompts(request, max_chars=MAX_PROMPT_CHARS, has_negative=False)
        self._check_size(request)
        check_seed(request.seed, SEED_RANGE)
        check_inputs(request, max_inputs=MAX_INPUTS, max_bytes=MAX_INPUT_BYTES)
        check_output(request, encodes=False)
        check_params(
            request.params,
            accepted={*self._wire.params, *listed(self._options.get("params"))},
            choices={name: values for name, values in self._wire.params.items() if values},
            model=request.model,
        )

    async def check_credential(self, *, timeout_s: float) -> CredentialCheck:
        """See ChecksCredential; what a key has left is told for free. The account's own credit is not."""
        answer = await self._checked("/key", timeout_s)
        if isinstance(answer, CredentialCheck):
            return answer
        data = (json_object(answer.body) or {}).get("data")
        if not isinstance(data, dict):
            return CredentialCheck(None, f"{self._host}/key told nothing of the key; is base_url right?")
        left = data.get("limit_remaining")
        if not isinstance(left, int | float):
            return CredentialCheck(True, f"{self._host} accepts the key, which has no limit of its own.")
        if left <= 0:
            return CredentialCheck(False, f"The key's own limit at {self._host} is used up: raise it there.")
        return CredentialCheck(True, f"{self._host} accepts the key; {left:g} USD of its limit are left.")

    def _check_size(self, request: Request) -> None:
        try:
            self._wire.sized(request.size)
        except ValueError as error:
            raise invalid("size", str(error)) from None
        name = self._wire.resolution
        if name in request.params and request.size is not None and "x" in request.size:
            raise invalid(
                f"params.{name}", f"The size {request.size} is in pixels already; leave {name} out."
            )

    def _http_request(self, request: Request) -> httpx2.Request:
        fields = self._wire.fields(request, listed(self._options.get("modalities")))
        body = orjson.dumps({name: value for name, value in fields.items() if value is not None})
        headers = {**self._headers(), "Content-Type": "application/json"}
        url = f"{self._base_url}{self._wire.path}"
        return self._client.build_request("POST", url, content=body, headers=headers)

    def _generated(self, answer: Answer, request: Request) -> Generated:
        if not answer.accepted:
            raise refusal(answer, self._host)
        document = answered_object(answer, request_id_of(answer))
        request_id = request_id_of(answer) or word(document.get("id")) or None
        usage = usage_in(document)
        cost = amount(usage.get("cost"))
        try:
            pictures = self._pictures(answer, document, request, request_id)
        except ProviderError as error:
            # By this id OpenRouter tells what it took for a call, also later.
            error.request_id = error.request_id or request_id
            raise error.billed(cost, CURRENCY) from None
        return Generated(
            pictures=pictures,
            provider_request_id=request_id,
            cost=cost,
            currency=None if cost is None else CURRENCY,
            usage=usage or None,
        )

    def _pictures(
        self, answer: Answer, document: dict[str, Any], request: Request, request_id: str | None
    ) -> tuple[Picture, ...]:
        choice = self._wire.choice(document)
        inside = choice.get("error") if isinstance(choice.get("error"), dict) else None
        if error := error_in(document) or inside:
            raise refusal(answer, self._host, error)
        items = self._wire.items(document)
        pictures = pictures_in(items, answer, self._host, request.seed, request_id)
        if not pictures:
            raise no_picture(choice, answer, self._host, request_id)
        return pictures
