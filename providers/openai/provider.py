"""OpenAI's images API, and the many gateways that speak it: one synchronous call makes one picture.

Generations are JSON, edits are multipart. The answer holds base64, an address, or a `data:` URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from providers.base import Capabilities, CredentialCheck, Generated, InputImage, Picture, Request, Scalar
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.openai.errors import refusal
from providers.openai.models import Family, family_of
from providers.openai.prices import CURRENCY, cost_of
from providers.shared.account import check_options, chosen, listed, secret_of
from providers.shared.checks import (
    check_inputs,
    check_output,
    check_params,
    check_prompts,
    check_seed,
    invalid,
)
from providers.shared.json_answers import answered_object, pictures_in, usage_in
from providers.shared.one_call import OneCallProvider
from providers.shared.refusals import error_in, json_object

DEFAULT_BASE_URL = "https://api.openai.com/v1"
SEED_RANGE = (0, 2**32 - 1)
MAX_INPUT_BYTES = 50 * 1024**2  # of one picture of an edit; both from the reference of the edits endpoint
MAX_MASK_BYTES = 4 * 1024**2

_OPTIONS = ("seed", "organization", "project", "response_format", "params", "allow_hosts")


def create(*, base_url: str | None, secrets: Mapping[str, str], options: Mapping[str, str]) -> OpenAIProvider:
    """A provider for one credential; raises ValueError with a sentence.

    Secrets: `api_key`. Options: `seed` ("true" sends seeds to every model, "false" to none; without it only
    models that are not OpenAI's get one), `response_format` ("url" or "b64_json", for gateways that want it),
    `params` (further parameter names to let through, by comma), `allow_hosts` (hosts, by comma, whose result
    addresses may be plain http or private), `organization`, `project`.
    """
    check_options("openai", options, _OPTIONS)
    chosen(options, "response_format", ("url", "b64_json"), default="url")
    chosen(options, "seed", ("true", "false"), default="true")
    return OpenAIProvider(base_url or DEFAULT_BASE_URL, secret_of("openai", secrets), options)


class OpenAIProvider(OneCallProvider):
    """One account at OpenAI or at a compatible gateway."""

    name = "openai"
    option_headers: Mapping[str, str] = {
        "organization": "OpenAI-Organization",
        "project": "OpenAI-Project",
    }

    def capabilities(self, model: str) -> Capabilities:
        """See Provider.capabilities."""
        family = family_of(model)
        return Capabilities(
            mode="sync",
            max_prompt_chars=family.max_prompt_chars,
            max_inputs=family.max_inputs,
            seed_range=self._seed_range(family),
            url_ttl_s=3600.0,  # documented for dall-e; gateways say nothing
            currency=CURRENCY,
        )

    def check(self, request: Request) -> None:
        """See Provider.check. A seed is not refused where the model has none: it is then simply not sent."""
        family = family_of(request.model)
        check_prompts(request, max_chars=family.max_prompt_chars, has_negative=family.has_negative_prompt)
        try:
            family.wire_size(request.size)
        except ValueError as error:
            raise invalid("size", str(error)) from None
        check_seed(request.seed, self._seed_range(family))
        check_inputs(request, max_inputs=family.max_inputs, max_bytes=MAX_INPUT_BYTES, has_mask=True)
        for number, image in enumerate(request.inputs):
            _check_mask(f"inputs.{number}", image)
        check_output(request, encodes=family.encodes)
        accepted = family.params | set(listed(self._options.get("params")))
        check_params(request.params, accepted=accepted, choices=family.choices, model=request.model)

    async def check_credential(self, *, timeout_s: float) -> CredentialCheck:
        """See ChecksCredential; the list of models costs nothing."""
        answer = await self._checked("/models", timeout_s)
        if isinstance(answer, CredentialCheck):
            return answer
        models = (json_object(answer.body) or {}).get("data")
        if not isinstance(models, list):
            return CredentialCheck(None, f"{self._host}/models gave no list of models; is base_url right?")
        return CredentialCheck(True, f"{self._host} accepts the key and lists {len(models)} models.")

    # --- the request

    def _http_request(self, request: Request) -> httpx2.Request:
        return self._edit(request) if request.inputs else self._generation(request)

    def _generation(self, request: Request) -> httpx2.Request:
        url = f"{self._base_url}/images/generations"
        headers = {**self._headers(), "Content-Type": "application/json"}
        return self._client.build_request(
            "POST", url, content=orjson.dumps(self._fields(request)), headers=headers
        )

    def _edit(self, request: Request) -> httpx2.Request:
        fields = {name: _text(value) for name, value in self._fields(request).items()}
        files = [
            (
                "mask" if image.role == "mask" else "image[]",
                (f"input-{number}.{image.content_type.rpartition('/')[2]}", image.data, image.content_type),
            )
            for number, image in enumerate(request.inputs)
        ]
        url = f"{self._base_url}/images/edits"
        return self._client.build_request("POST", url, data=fields, files=files, headers=self._headers())

    def _fields(self, request: Request) -> dict[str, Scalar]:
        family = family_of(request.model)
        encodes = family.encodes and request.output_format is not None
        fields: dict[str, Scalar | None] = {
            **request.params,
            "model": request.model,
            "prompt": request.prompt,
            "n": 1,
            "size": family.wire_size(request.size),
            "negative_prompt": request.negative_prompt,
            "seed": self._sent_seed(request),
            "output_format": request.output_format if encodes else None,
            "output_compression": request.quality if encodes and request.output_format != "png" else None,
            "response_format": self._response_format(family),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _response_format(self, family: Family) -> str | None:
        if not family.has_response_format:
            return None
        asked = self._options.get("response_format")
        return asked.lower() if asked else family.response_format

    def _sent_seed(self, request: Request) -> int | None:
        return request.seed if self._seed_range(family_of(request.model)) else None

    def _seed_range(self, family: Family) -> tuple[int, int] | None:
        """None where the model gets no seed."""
        asked = self._options.get("seed", "").lower()
        return SEED_RANGE if asked == "true" or (family.has_seed and asked != "false") else None

    # --- the answer

    def _generated(self, answer: Answer, request: Request) -> Generated:
        if not answer.accepted:
            raise refusal(answer, self._host)
        request_id = answer.headers.get("x-request-id")
        document = answered_object(answer, request_id)
        if error_in(document):
            raise refusal(answer, self._host)
        usage = usage_in(document)
        cost = cost_of(request.model, usage, edited=bool(request.inputs))
        try:
            pictures = self._pictures(answer, document, request, request_id)
        except ProviderError as error:
            raise error.billed(cost, CURRENCY) from None
        return Generated(
            pictures=pictures,
            revised_prompt=_revised_prompt(document),
            provider_request_id=request_id,
            cost=cost,
            currency=None if cost is None else CURRENCY,
            usage=usage or None,
        )

    def _pictures(
        self, answer: Answer, document: dict[str, Any], request: Request, request_id: str | None
    ) -> tuple[Picture, ...]:
        items, seed = document.get("data") or [], self._sent_seed(request)
        pictures = pictures_in(items, answer, self._host, seed, request_id)
        if not pictures:
            message = f"{self._host} answered {answer.status} without a picture."
            raise ProviderError(ErrorKind.NO_IMAGE, message, http_status=answer.status, request_id=request_id)
        return pictures


def _revised_prompt(document: dict[str, Any]) -> str | None:
    revised = next((item.get("revised_prompt") for item in document["data"] if isinstance(item, dict)), None)
    return revised if isinstance(revised, str) else None


def _check_mask(field: str, image: InputImage) -> None:
    """A mask is a small PNG. Before the picture was fetched (`data` is empty then) nothing is known of it."""
    if image.role != "mask" or not image.data:
        return
    if image.content_type != "image/png" or len(image.data) >= MAX_MASK_BYTES:
        raise invalid(field, "A mask must be a PNG of less than 4 MiB, as large in pixels as the picture.")


def _text(value: Scalar) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
