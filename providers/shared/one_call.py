"""What providers share whose call is one POST that answers with the picture: there are no tasks to poll or cancel."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping

import httpx2

from providers.base import CredentialCheck, Generated, Pending, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http.client import Answer
from providers.shared.account import base_address, check_header_options
from providers.shared.http_provider import HttpProvider
from providers.shared.refusals import error_object, word
from providers.shared.statuses import kind_of_status

# A restricted key may draw without being allowed to look around; OpenAI says so with a 401 as well as a 403.
_RESTRICTED = re.compile(r"missing scopes|insufficient permissions", re.IGNORECASE)


class OneCallProvider(HttpProvider, ABC):
    """Base of such providers; they add `capabilities` and what is abstract here."""

    name: str
    option_headers: Mapping[str, str] = {}  # the headers that options of the credential become

    def __init__(self, base_url: str, api_key: str, options: Mapping[str, str]) -> None:
        url = base_address(base_url)
        check_header_options(options, self.option_headers)
        super().__init__(url, (api_key,), options)
        self._base_url = str(url).rstrip("/")
        self._api_key = api_key
        self._options = dict(options)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url})"

    @abstractmethod
    def check(self, request: Request) -> None:
        """See Provider.check."""

    @abstractmethod
    def _http_request(self, request: Request) -> httpx2.Request:
        """The POST for a checked request."""

    @abstractmethod
    def _generated(self, answer: Answer, request: Request) -> Generated:
        """What the answer holds, of any status; raises ProviderError."""

    async def submit(self, request: Request, *, timeout_s: float) -> Submitted | Generated:
        """One POST; its answer is the picture. See Provider.submit."""
        self.check(request)
        return await self._call(
            self._http_request(request),
            lambda answer: self._generated(answer, request),
            timeout_s=timeout_s,
        )

    async def poll(self, submitted: Submitted) -> Pending | Generated:
        """There is nothing to poll: calls are synchronous."""
        message = f"The {self.name} provider has no tasks, so {submitted.task_id} cannot be one of its own."
        raise ProviderError(ErrorKind.TASK_LOST, message)

    async def _checked(self, path: str, timeout_s: float) -> CredentialCheck | Answer:
        """The answer of success to a GET that costs nothing, or what another answer shows of the credential."""
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
            return answer
        kind = kind_of_status(answer.status)
        refused = word(error_object(answer.body).get("message")) or f"HTTP status {answer.status}"
        said = ProviderError(kind, refused).without(self._api_key).message
        if kind in (ErrorKind.AUTH, ErrorKind.BILLING_EXHAUSTED) and not _RESTRICTED.search(said):
            return CredentialCheck(False, f"{self._host} refuses the key: {said}")
        return CredentialCheck(
            None,
            f"{self._host}{path} does not tell, so whether the key may draw cannot be told for free: {said}",
        )

    def _headers(self) -> dict[str, str]:
        named = self.option_headers.items()
        asked = {header: self._options[option] for option, header in named if option in self._options}
        return {"Authorization": f"Bearer {self._api_key}", **asked}
