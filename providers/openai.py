"""OpenAI's images API, and the many gateways that speak it: one synchronous call makes one picture.

Generations are JSON, edits are multipart. The answer holds base64, an address, or a `data:` URL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from providers.account import base_address, check_options, listed, picture_hosts, secret_of
from providers.base import Capabilities, Generated, Pending, Picture, Request, Scalar, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http import Answer, create_client, send_once
from providers.openai_errors import refusal
from providers.openai_models import Family, family_of
from providers.pictures import decoded_picture, fetch_picture
from providers.refusals import error_object, json_object

DEFAULT_BASE_URL = "https://api.openai.com/v1"
SEED_RANGE = (0, 2**32 - 1)

_OPTIONS = ("seed", "organization", "project", "response_format", "params", "allow_hosts")


def create(*, base_url: str | None, secrets: Mapping[str, str], options: Mapping[str, str]) -> OpenAIProvider:
    """A provider for one credential; raises ValueError with a sentence.

    Secrets: `api_key`. Options: `seed` ("true" sends seeds to every model, "false" to none; without it only
    models that are not OpenAI's get one), `response_format` ("url" or "b64_json", for gateways that want it),
    `params` (further parameter names to let through, by comma), `allow_hosts` (hosts, by comma, whose result
    addresses may be plain http or private), `organization`, `project`.
    """
    check_options("openai", options, _OPTIONS)
    key = secret_of("openai", secrets)
    return OpenAIProvider(base_url or DEFAULT_BASE_URL, key, options)


class OpenAIProvider:
    """One account at OpenAI or at a compatible gateway."""

    name = "openai"

    def __init__(self, base_url: str, api_key: str, options: Mapping[str, str]) -> None:
        url = base_address(base_url)
        self._base_url = str(url).rstrip("/")
        self._host = url.host
        self._api_key = api_key
        self._options = dict(options)
        self._allow_hosts = picture_hosts(url, options)
        self._client = create_client(base_url)

    def __repr__(self) -> str:
        return f"OpenAIProvider({self._base_url})"

    def capabilities(self, model: str) -> Capabilities:
        family = family_of(model)
        return Capabilities(
            mode="sync",
            max_prompt_chars=family.max_prompt_chars,
            max_inputs=family.max_inputs,
            seed_range=SEED_RANGE if self._sends_seed(family) else None,
            url_ttl_s=3600.0,  # documented for dall-e; gateways say nothing
        )

    def check(self, request: Request) -> None:
        """See Provider.check. A seed is not refused where the model has none: it is then simply not sent."""
        family = family_of(request.model)
        if not request.prompt:
            raise _invalid("prompt", "The prompt is empty.")
        if len(request.prompt) > family.max_prompt_chars:
            limit = f"at most {family.max_prompt_chars}"
            raise _invalid(
                "prompt", f"The prompt has {len(request.prompt)} characters; {request.model} takes {limit}."
            )
        if request.negative_prompt and not family.has_negative_prompt:
            raise _invalid(
                "negative_prompt", f"{request.model} has no negative prompt; say it in the prompt."
            )
        try:
            family.wire_size(request.size)
        except ValueError as error:
            raise _invalid("size", str(error)) from None
        self._check_seed(request, family)
        self._check_inputs(request, family)
        self._check_output(request, family)
        self._check_params(request.params, family, request.model)

    async def submit(self, request: Request, *, timeout_s: float) -> Submitted | Generated:
        """One POST; its answer is the picture. See Provider.submit."""
        self.check(request)
        http_request = self._edit(request) if request.inputs else self._generation(request)
        try:
            answer = await send_once(self._client, http_request, timeout_s=timeout_s)
            if answer.status != 200:
                raise refusal(answer, self._host)
            return self._generated(answer, request)
        except ProviderError as error:
            raise error.without(self._api_key) from None

    async def poll(self, submitted: Submitted) -> Pending | Generated:
        """There is nothing to poll: calls are synchronous."""
        message = f"The openai provider has no tasks, so {submitted.task_id} cannot be one of its own."
        raise ProviderError(ErrorKind.TASK_LOST, message)

    async def cancel(self, submitted: Submitted) -> bool:  # noqa: ARG002 (the interface's signature)
        """Always False: a running call cannot be taken back."""
        return False

    async def fetch(self, picture: Picture) -> bytes:
        """See Provider.fetch and `fetch_picture`."""
        return await fetch_picture(picture, host=self._host, allow_hosts=self._allow_hosts)

    async def aclose(self) -> None:
        await self._client.aclose()

    # --- the request

    def _generation(self, request: Request) -> httpx2.Request:
        fields = self._fields(request)
        url = f"{self._base_url}/images/generations"
        headers = {**self._headers(), "Content-Type": "application/json"}
        return self._client.build_request("POST", url, content=orjson.dumps(fields), headers=headers)

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
            "seed": request.seed if self._sends_seed(family) else None,
            "output_format": request.output_format if encodes else None,
            "output_compression": request.quality if encodes and request.output_format != "png" else None,
            "response_format": self._response_format(family),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._api_key}"}
        for option, header in (("organization", "OpenAI-Organization"), ("project", "OpenAI-Project")):
            if option in self._options:
                headers[header] = self._options[option]
        return headers

    def _response_format(self, family: Family) -> str | None:
        # gpt-image models answer 400 to the field itself; family rules know it for the others.
        if family.has_seed:
            return self._options.get("response_format")
        return family.response_format

    def _sends_seed(self, family: Family) -> bool:
        asked = self._options.get("seed", "").lower()
        return asked == "true" or (family.has_seed and asked != "false")

    # --- the checks

    def _check_seed(self, request: Request, family: Family) -> None:
        if request.seed is None or not self._sends_seed(family):
            return
        if not SEED_RANGE[0] <= request.seed <= SEED_RANGE[1]:
            raise _invalid("seed", f"The seed {request.seed} is outside {SEED_RANGE[0]}..{SEED_RANGE[1]}.")

    def _check_inputs(self, request: Request, family: Family) -> None:
        pictures = [image for image in request.inputs if image.role != "mask"]
        if len(pictures) > family.max_inputs:
            takes = f"at most {family.max_inputs}" if family.max_inputs else "none"
            raise _invalid(
                "inputs", f"{len(pictures)} input pictures were given; {request.model} takes {takes}."
            )
        if len(request.inputs) - len(pictures) > 1 or (request.inputs and not pictures):
            raise _invalid("inputs", "A mask needs a picture to apply to, and there can be only one mask.")

    def _check_output(self, request: Request, family: Family) -> None:
        # Families that cannot encode are served as they answer; the caller converts if it wants to.
        if request.output_format not in (None, "png", "jpeg", "webp"):
            raise _invalid("output.format", f"{request.output_format!r} is not one of png, jpeg, webp.")
        if family.encodes and request.quality is not None and not 1 <= request.quality <= 100:
            raise _invalid("output.quality", f"The quality {request.quality} is outside 1..100.")

    def _check_params(self, params: Mapping[str, Scalar], family: Family, model: str) -> None:
        accepted = family.params | set(listed(self._options.get("params")))
        for name, value in params.items():
            if name not in accepted:
                known = ", ".join(sorted(accepted))
                raise _invalid(f"params.{name}", f"{model} has no parameter {name!r}; it accepts {known}.")
            if problem := family.value_problem(name, value):
                raise _invalid(f"params.{name}", problem)

    # --- the answer

    def _generated(self, answer: Answer, request: Request) -> Generated:
        request_id = answer.headers.get("x-request-id")
        if error_object(answer.body):
            raise refusal(answer, self._host)
        document = _json_object(answer)
        items = document.get("data")
        if items is not None and not isinstance(items, list):
            raise _bad(f"{self._host} answered 200, but `data` is not a list.", request_id)
        sent_seed = request.seed if self._sends_seed(family_of(request.model)) else None
        pictures = tuple(
            picture
            for item in items or ()
            if isinstance(item, dict) and (picture := self._picture(item, sent_seed)) is not None
        )
        if not pictures:
            message = f"{self._host} answered 200 without a picture."
            raise ProviderError(ErrorKind.NO_IMAGE, message, http_status=200, request_id=request_id)
        revised = next((item.get("revised_prompt") for item in items or () if isinstance(item, dict)), None)
        usage = document.get("usage")
        return Generated(
            pictures=pictures,
            revised_prompt=revised if isinstance(revised, str) else None,
            provider_request_id=request_id,
            usage=usage if isinstance(usage, dict) else None,
        )

    def _picture(self, item: dict[str, Any], sent_seed: int | None) -> Picture | None:
        seed = item.get("seed")
        seed = seed if isinstance(seed, int) else sent_seed
        encoded, url = item.get("b64_json"), item.get("url")
        if isinstance(url, str) and url.startswith("data:"):
            encoded, url = url, None
        if isinstance(encoded, str) and encoded:
            return Picture(data=decoded_picture(encoded, self._host), seed=seed)
        return Picture(url=url, seed=seed) if isinstance(url, str) and url else None


def _json_object(answer: Answer) -> dict[str, Any]:
    document = json_object(answer.body)
    if document is None:
        kind = answer.headers.get("content-type", "no content type")
        raise _bad(
            f"The answer has status 200, but is no JSON object ({kind}).", answer.headers.get("x-request-id")
        )
    return document


def _bad(message: str, request_id: str | None) -> ProviderError:
    return ProviderError(ErrorKind.BAD_RESPONSE, message, http_status=200, request_id=request_id)


def _invalid(field: str, message: str) -> ProviderError:
    return ProviderError(ErrorKind.INVALID_REQUEST, message, field=field)


def _text(value: Scalar) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
