"""OpenAI's images API, and the many gateways that speak it: one synchronous call makes one picture.

Generations are JSON, edits are multipart. The answer holds base64, an address, or a `data:` URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import httpx2

from providers.base import Capabilities, CredentialCheck, Request, Scalar
from providers.errors import ProviderError
from providers.http.client import Answer
from providers.openai.errors import refusal
from providers.openai.models import Family, cost_of, family_of
from providers.shared import checks
from providers.shared.account import check_options, chosen, secret_of
from providers.shared.answers import listed_models, no_image
from providers.shared.provider import OneCallProvider

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
            currency=self.currency,
        )

    def check(self, request: Request) -> None:
        """See Provider.check. A seed for a model that has none is not refused; it is not sent."""
        family = family_of(request.model)
        checks.prompts(request, max_chars=family.max_prompt_chars, has_negative=family.has_negative_prompt)
        checks.convertible("size", request.size, family.wire_size)
        checks.seed(request.seed, self._seed_range(family))
        checks.inputs(request, max_inputs=family.max_inputs, max_bytes=MAX_INPUT_BYTES, has_mask=True)
        for number, image in enumerate(request.inputs):
            # Before a mask is fetched its `data` is empty, and nothing is known about it.
            small_png = image.content_type == "image/png" and len(image.data) < MAX_MASK_BYTES
            if image.role == "mask" and image.data and not small_png:
                message = "A mask must be a PNG of less than 4 MiB, as large in pixels as the picture."
                raise checks.invalid(f"inputs.{number}", message)
        checks.output(request, encodes=family.encodes)
        accepted = family.params.union(self._extra_params)
        checks.params(request, accepted, family.choices)

    async def check_credential(self, *, timeout_s: float) -> CredentialCheck:
        """See ChecksCredential; the list of models costs nothing."""
        answer = await self._checked("/models", timeout_s)
        if isinstance(answer, CredentialCheck):
            return answer
        models = answer.get("data")
        if not isinstance(models, list):
            return CredentialCheck(None, f"{self._host}/models gave no list of models; is base_url right?")
        says = f"{self._host} accepts the key and lists {len(models)} models."
        return CredentialCheck(True, says, listed_models(answer))

    # --- the request

    def _submit_request(self, request: Request) -> httpx2.Request:
        fields = self._fields(request)
        if not request.inputs:
            return self._post("/images/generations", fields)
        form = {name: _text(value) for name, value in fields.items() if value is not None}
        files = [
            (
                "mask" if image.role == "mask" else "image[]",
                (f"input-{number}.{image.content_type.rpartition('/')[2]}", image.data, image.content_type),
            )
            for number, image in enumerate(request.inputs)
        ]
        url = f"{self._base_url}/images/edits"
        return self._client.build_request("POST", url, data=form, files=files, headers=self._headers())

    def _fields(self, request: Request) -> dict[str, Scalar | None]:
        family = family_of(request.model)
        encodes = family.encodes and request.output_format is not None
        return {
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

    def _response_format(self, family: Family) -> str | None:
        if not family.has_response_format:
            return None
        return self._options.get("response_format", "").lower() or family.response_format

    def _sent_seed(self, request: Request) -> int | None:
        return request.seed if self._seed_range(family_of(request.model)) else None

    def _seed_range(self, family: Family) -> tuple[int, int] | None:
        """None where the model gets no seed."""
        option = self._options.get("seed", "").lower()
        return SEED_RANGE if option == "true" or (family.has_seed and option != "false") else None

    # --- the answer

    def _refusal(self, answer: Answer, error: dict[str, Any]) -> ProviderError:
        return refusal(answer, self._host, error)

    def _no_picture(self, answer: Answer, document: dict[str, Any], request_id: str | None) -> ProviderError:  # noqa: ARG002
        return no_image(answer, f"{self._host} answered {answer.status} without a picture.", request_id)

    def _request_id(self, answer: Answer, document: dict[str, Any]) -> str | None:  # noqa: ARG002 (as the base)
        return answer.headers.get("x-request-id")

    def _cost(self, request: Request, usage: dict[str, Any]) -> Decimal | None:
        return cost_of(request.model, usage, edited=bool(request.inputs))


def _text(value: Scalar) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
