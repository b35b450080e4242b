"""Fetches a job's input pictures by safe rules or from our store, checks them, and passes them on as bytes.

Producers choose the addresses. A provider gets none of them, because it would fetch them by its own rules.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Iterable

from daemon.storage.imaging import BadImage, in_picture_thread, inspect_image
from daemon.storage.object_store import ResultStore, StorageError
from pixmill.contract import Input
from providers.base import InputImage
from providers.errors import ErrorKind, ProviderError, Retry, Scope
from providers.http.faults import Unreached
from providers.http.outside import OutsideError, download


class InputFetcher:
    """Fetches the inputs of one job at a time; all errors are ProviderError with the job's field."""

    def __init__(self, store: ResultStore, *, max_bytes: int, allow_hosts: Collection[str]) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._allow_hosts = allow_hosts

    async def fetch(self, inputs: Iterable[Input]) -> tuple[InputImage, ...]:
        """Return the inputs in order."""
        return tuple(await asyncio.gather(*(self._one(index, image) for index, image in enumerate(inputs))))

    async def _one(self, index: int, image: Input) -> InputImage:
        field = f"inputs.{index}"
        data = await self._data(image, field)
        if image.sha256 is not None and hashlib.sha256(data).hexdigest() != image.sha256:
            raise _invalid(
                f"{field}.sha256", "The picture at this address is not the one that `sha256` names."
            )
        try:
            facts = await in_picture_thread(inspect_image, data)
        except BadImage as error:
            raise _invalid(field, f"The input cannot be used: {error}") from error
        return InputImage(data, facts.content_type, image.role)

    async def _data(self, image: Input, field: str) -> bytes:
        if image.url is None:
            return await self._object(image.object or "", field)
        try:
            return await download(image.url, max_bytes=self._max_bytes, allow_hosts=self._allow_hosts)
        except OutsideError as error:
            raise _unfetched(error, f"{field}.url") from error

    async def _object(self, key: str, field: str) -> bytes:
        try:
            data = await self._store.get(key)
        except StorageError as error:
            raise _unfetched(OutsideError(str(error), unreached=Unreached.HOST), f"{field}.object") from error
        except ValueError as error:
            raise ProviderError(ErrorKind.INPUT_FETCH, str(error), field=f"{field}.object") from error
        if data is None:
            raise _invalid(f"{field}.object", "There is no object under this key.")
        return data


def _unfetched(error: OutsideError, field: str) -> ProviderError:
    """The job's fault, or the host's answer; a lack of this machine is neither."""
    if error.refused:
        return _invalid(field, error.message)
    if error.unreached is None:
        return ProviderError(ErrorKind.INPUT_FETCH, error.message, field=field)
    scope = Scope.MACHINE if error.unreached is Unreached.MACHINE else Scope.JOB
    return ProviderError(ErrorKind.INPUT_FETCH, error.message, field=field, retry=Retry.UNSENT, scope=scope)


def _invalid(field: str, message: str) -> ProviderError:
    return ProviderError(ErrorKind.INVALID_REQUEST, message, field=field)
