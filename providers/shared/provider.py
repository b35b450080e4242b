"""Bases of the providers that speak HTTP with one account.

`HttpProvider` sends, reads, polls and fetches. `OneCallProvider` is for APIs whose single POST answers with the
picture.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

import httpx2
import orjson

from pixmill.text import visible
from providers.base import (
    NO_HOOKS,
    CallHooks,
    CredentialCheck,
    Generated,
    Pending,
    Picture,
    Request,
    Submitted,
)
from providers.errors import ErrorKind, ProviderError
from providers.http.client import MAX_ANSWER_BYTES, Answer, create_client, send_once
from providers.http.exchange import KeptConnections
from providers.secrets import without_secret
from providers.shared import answers
from providers.shared.account import base_address, check_header_options, listed, picture_hosts
from providers.shared.refusals import kind_of_status, redirected

T = TypeVar("T")

# Fields of results that hold words. Ids are not among them: they have to stay what they are.
_SHOWN = ("revised_prompt", "status")
_MOST_SHOWN = 32_000  # characters, of the longest prompt

# A restricted key may draw although it may not look around; OpenAI answers it with a 401 as well as a 403.
_RESTRICTED = re.compile(r"missing scopes|insufficient permissions", re.IGNORECASE)


def json_body(fields: Mapping[str, Any]) -> bytes:
    """A JSON object without the fields that are None.

    It is a copy: orjson's own bytes keep the 4 KiB that it writes into, and a body lives as long as its call.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    return memoryview(orjson.dumps(given)).tobytes()


@lru_cache(maxsize=64)
def _url(text: str) -> httpx2.URL:
    """An address that calls go to. There are few, and reading one takes 0.1 ms."""
    return httpx2.URL(text)


class HttpProvider(ABC):
    """Base of the built-in providers; they add `capabilities` and the abstract steps, of which none uses the network.

    The first secret is the bearer key. `optional_path` may end a base address, or be left out.
    """

    name: str
    optional_path = ""
    poll_timeout_s = 30.0
    max_answer_bytes = MAX_ANSWER_BYTES

    def __init__(self, base_url: str, secrets: Collection[str], options: Mapping[str, str]) -> None:
        url = base_address(base_url)
        self._base_url = str(url).rstrip("/").removesuffix(self.optional_path)
        self._host = url.host
        self._secrets = tuple(secrets)
        self._allow_hosts = picture_hosts(url, options)
        self._client = create_client(str(url))
        self._free = create_client(str(url), paid=False)  # for all requests that cost nothing
        self._downloads = KeptConnections()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url})"

    @abstractmethod
    def check(self, request: Request) -> None:
        """See Provider.check."""

    @abstractmethod
    def _submit_request(self, request: Request) -> httpx2.Request:
        """The POST for a checked request."""

    @abstractmethod
    def _accepted(self, answer: Answer, request: Request) -> Submitted | Generated:
        """The receipt or the result in the answer to a submit, of any status; raises ProviderError."""

    def _poll_request(self, submitted: Submitted) -> httpx2.Request:
        message = f"The {self.name} provider has no tasks on this wire: {submitted.task_id} cannot be one of its own."
        raise ProviderError(ErrorKind.TASK_LOST, message)

    def _named_task(self, document: dict[str, Any]) -> object:  # noqa: ARG002 (for subclasses)
        """The id of the task that the answer to a poll is about, where the answer names it."""
        return None

    def _progress(self, answer: Answer) -> Pending | Generated:
        """The state of the task in the answer to a poll, of any status; raises ProviderError."""
        raise NotImplementedError

    async def submit(
        self, request: Request, *, timeout_s: float, hooks: CallHooks = NO_HOOKS
    ) -> Submitted | Generated:
        """One POST. See Provider.submit."""
        self.check(request)

        def read(answer: Answer) -> Submitted | Generated:
            return replace(self._accepted(answer, request), headers=answer.rate_headers)

        return await self._call(self._submit_request(request), read, timeout_s=timeout_s, hooks=hooks)

    async def poll(self, submitted: Submitted, *, hooks: CallHooks = NO_HOOKS) -> Pending | Generated:
        """See Provider.poll. The receipt is all it needs, so any replica can poll."""

        def read(answer: Answer) -> Pending | Generated:
            # A refusal may name the request in the place of the task.
            named = self._named_task(answers.json_object(answer.body) or {}) if answer.accepted else None
            if isinstance(named, str | int) and named and str(named) != submitted.task_id:
                what = "is about another task than the one that was polled"
                raise answers.bad_answer(answer, what, kind=ErrorKind.POLL_ERROR)
            return self._progress(answer)

        return await self._call(
            self._poll_request(submitted),
            read,
            timeout_s=self.poll_timeout_s,
            lost=ErrorKind.POLL_ERROR,
            hooks=hooks,
        )

    async def cancel(self, submitted: Submitted) -> bool:  # noqa: ARG002 (the interface's signature)
        """Always False: none of these APIs takes back a call that it accepted."""
        return False

    async def fetch(self, picture: Picture) -> bytes:
        """See Provider.fetch and `fetch_picture`."""
        return await answers.fetch_picture(
            picture, host=self._host, allow_hosts=self._allow_hosts, connections=self._downloads
        )

    async def aclose(self) -> None:
        """See Provider.aclose."""
        for each in (self._client, self._free, self._downloads):
            await each.aclose()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secrets[0]}"}

    def _post(self, path: str, fields: Mapping[str, Any], **headers: str) -> httpx2.Request:
        """A JSON POST; fields that are None are left out."""
        body = json_body(fields)
        headers = {**self._headers(), "Content-Type": "application/json", **headers}
        return self._client.build_request("POST", _url(self._base_url + path), content=body, headers=headers)

    async def _call(
        self,
        request: httpx2.Request,
        read: Callable[[Answer], T],
        *,
        timeout_s: float,
        lost: ErrorKind = ErrorKind.AMBIGUOUS_SUBMIT,
        hooks: CallHooks = NO_HOOKS,
    ) -> T:
        """`read` applied to the answer to one request; see `send_once`. No error shows a secret of the account."""
        client = self._client if lost is ErrorKind.AMBIGUOUS_SUBMIT else self._free
        try:
            answer = await send_once(
                client,
                request,
                timeout_s=timeout_s,
                lost=lost,
                max_bytes=self.max_answer_bytes,
                hooks=hooks,
            )
            if 300 <= answer.status < 400:
                raise redirected(answer, self._host, lost)
            return self._without_secrets(read(answer))
        except ProviderError as error:
            for secret in self._secrets:
                error.without(secret)
            raise error from None

    def _without_secrets(self, read: T) -> T:
        """The result that was read, with no secret of the account in the texts that go into records and events."""
        shown = {
            name: visible(text, lines=True)[:_MOST_SHOWN]
            for name in _SHOWN
            if isinstance(text := getattr(read, name, None), str)
        }
        for secret in self._secrets:
            shown = {name: without_secret(text, secret) for name, text in shown.items()}
        return replace(read, **shown) if shown else read  # type: ignore[type-var]  # only dataclasses have them


class OneCallProvider(HttpProvider):
    """Base of the providers without tasks; a subclass finds the fields of its answers and sorts its refusals."""

    currency = "USD"
    option_headers: Mapping[str, str] = {}  # headers by the option of the credential that fills them

    def __init__(self, base_url: str, api_key: str, options: Mapping[str, str]) -> None:
        check_header_options(options, self.option_headers)
        super().__init__(base_url, (api_key,), options)
        self._options = dict(options)
        self._extra_params = listed(options.get("params"))

    @abstractmethod
    def _refusal(self, answer: Answer, error: dict[str, Any]) -> ProviderError:
        """The failure that `answer` reports with this error object, which may be empty."""

    @abstractmethod
    def _no_picture(self, answer: Answer, document: dict[str, Any], request_id: str | None) -> ProviderError:
        """The error of an answer of success without a picture."""

    @abstractmethod
    def _request_id(self, answer: Answer, document: dict[str, Any]) -> str | None:
        """The provider's name for the call."""

    @abstractmethod
    def _cost(self, request: Request, usage: dict[str, Any]) -> Decimal | None:
        """The cost of the call, in `currency`; None if it is not known."""

    def _error_in(self, document: dict[str, Any]) -> dict[str, Any]:
        return answers.error_in(document)

    def _items(self, document: dict[str, Any]) -> object:
        """The part of an answer that should be a list of pictures."""
        return document.get("data") or []

    def _sent_seed(self, request: Request) -> int | None:
        return request.seed

    def _accepted(self, answer: Answer, request: Request) -> Generated:
        if not answer.accepted:
            raise self._refusal(answer, answers.error_object(answer.body))
        # The document holds it all, and decoding its pictures needs as much room again.
        document = answers.answered_object(answer, self._request_id(answer, {}), read=answers.emptied)
        request_id, usage = self._request_id(answer, document), answers.usage_in(document)
        cost = self._cost(request, usage)
        try:
            if error := self._error_in(document):
                raise self._refusal(answer, error)
            items, seed = self._items(document), self._sent_seed(request)
            pictures = answers.pictures_in(items, answer, self._host, seed, request_id)
            if not pictures:
                raise self._no_picture(answer, document, request_id)
        except ProviderError as error:
            # The id under which the provider finds the call, and its cost, again.
            error.request_id = error.request_id or request_id
            raise error.billed(cost, self.currency) from None
        return Generated(
            pictures=pictures,
            revised_prompt=_revised_prompt(document.get("data")),
            provider_request_id=request_id,
            cost=cost,
            currency=None if cost is None else self.currency,
            usage=usage or None,
        )

    async def _checked(self, path: str, timeout_s: float) -> CredentialCheck | dict[str, Any]:
        """The document of a free GET, or the verdict on the credential that its failure gives."""
        request = self._client.build_request("GET", f"{self._base_url}{path}", headers=self._headers())
        try:
            answer = await self._call(
                request, lambda answer: answer, timeout_s=timeout_s, lost=ErrorKind.POLL_ERROR
            )
        except ProviderError as error:
            return CredentialCheck(
                False, f"{error.message} Is base_url right, and can this machine reach it?"
            )
        if answer.accepted:
            return answers.json_object(answer.body) or {}
        kind = kind_of_status(answer.status)
        reason = (
            answers.word(answers.error_object(answer.body).get("message")) or f"HTTP status {answer.status}"
        )
        shown = ProviderError(kind, reason).without(self._secrets[0]).message
        if kind in (ErrorKind.AUTH, ErrorKind.BILLING_EXHAUSTED) and not _RESTRICTED.search(shown):
            return CredentialCheck(False, f"{self._host} refuses the key: {shown}")
        return CredentialCheck(
            None,
            f"{self._host}{path} does not show whether the key may draw, and no other free test does: {shown}",
        )

    def _headers(self) -> dict[str, str]:
        named = self.option_headers.items()
        given = {header: self._options[option] for option, header in named if option in self._options}
        return {**super()._headers(), **given}


def _revised_prompt(items: object) -> str | None:
    entries = items if isinstance(items, list) else []
    return next((answers.text_in(item, "revised_prompt") for item in entries if isinstance(item, dict)), None)
