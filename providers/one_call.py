"""What providers share whose call is one POST that answers with the picture: there are no tasks to poll or cancel."""

from __future__ import annotations

from collections.abc import Mapping

import httpx2

from providers.account import base_address, check_header_options, picture_hosts
from providers.base import CredentialCheck, Generated, Pending, Picture, Request, Submitted
from providers.errors import ErrorKind, ProviderError
from providers.http import Answer, create_client, send_once
from providers.pictures import fetch_picture
from providers.refusals import error_object, word
from providers.statuses import kind_of_status


class OneCallProvider:
    """Base of such providers: sending, fetching and closing. They add `capabilities`, `check`, and the two below."""

    name: str
    option_headers: Mapping[str, str] = {}  # the headers that options of the credential become

    def __init__(self, base_url: str, api_key: str, options: Mapping[str, str]) -> None:
        url = base_address(base_url)
        check_header_options(options, self.option_headers)
        self._base_url = str(url).rstrip("/")
        self._host = url.host
        self._api_key = api_key
        self._options = dict(options)
        self._allow_hosts = picture_hosts(url, options)
        self._client = create_client(base_url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._base_url})"

    def check(self, request: Request) -> None:
        """See Provider.check."""
        raise NotImplementedError

    def _http_request(self, request: Request) -> httpx2.Request:
        """The POST for a checked request."""
        raise NotImplementedError

    def _generated(self, answer: Answer, request: Request) -> Generated:
        """What the answer holds, of any status; raises ProviderError."""
        raise NotImplementedError

    async def submit(self, request: Request, *, timeout_s: float) -> Submitted | Generated:
        """One POST; its answer is the picture. See Provider.submit."""
        self.check(request)
        http_request = self._http_request(request)
        try:
            answer = await send_once(self._client, http_request, timeout_s=timeout_s)
            return self._generated(answer, request)
        except ProviderError as error:
            raise error.without(self._api_key) from None

    async def poll(self, submitted: Submitted) -> Pending | Generated:
        """There is nothing to poll: calls are synchronous."""
        message = f"The {self.name} provider has no tasks, so {submitted.task_id} cannot be one of its own."
        raise ProviderError(ErrorKind.TASK_LOST, message)

    async def cancel(self, submitted: Submitted) -> bool:  # noqa: ARG002 (the interface's signature)
        """Always False: a running call cannot be taken back."""
        return False

    async def fetch(self, picture: Picture) -> bytes:
        """See Provider.fetch and `fetch_picture`."""
        return await fetch_picture(picture, host=self._host, allow_hosts=self._allow_hosts)

    async def aclose(self) -> None:
        """See Provider.aclose."""
        await self._client.aclose()

    async def _checked(self, path: str, timeout_s: float) -> CredentialCheck | Answer:
        """The answer of 200 to a GET that costs nothing, or what another answer shows of the credential."""
        request = self._client.build_request("GET", f"{self._base_url}{path}", headers=self._headers())
        try:
            answer = await send_once(self._client, request, timeout_s=timeout_s, lost=ErrorKind.POLL_ERROR)
        except ProviderError as error:
            said = error.without(self._api_key).message
            return CredentialCheck(False, f"{said} Is base_url right, and can this machine reach it?")
        if answer.status == 200:
            return answer
        kind = kind_of_status(answer.status)
        refused = word(error_object(answer.body).get("message")) or f"HTTP status {answer.status}"
        said = ProviderError(kind, refused).without(self._api_key).message
        if kind in (ErrorKind.AUTH, ErrorKind.PERMISSION, ErrorKind.BILLING_EXHAUSTED):
            return CredentialCheck(False, f"{self._host} refuses the key: {said}")
        return CredentialCheck(None, f"{self._host}{path} does not tell about the key: {said}")

    def _headers(self) -> dict[str, str]:
        named = self.option_headers.items()
        asked = {header: self._options[option] for option, header in named if option in self._options}
        return {"Authorization": f"Bearer {self._api_key}", **asked}
