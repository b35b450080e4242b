"""A lack of this machine is recognised through everything that replaced it, and nothing else is."""

from __future__ import annotations

import errno
from collections.abc import Callable

import httpx2
import pytest
from obstore.exceptions import GenericError

from providers.errors import ErrorKind, ProviderError
from providers.lack import lack_of
from tests.providers.no_descriptors import no_descriptors


def replaced(error: BaseException) -> ProviderError:
    """A provider's error in place of `error`, as the client makes it."""
    try:
        try:
            raise error
        except type(error):
            raise ProviderError(ErrorKind.NETWORK_UNSENT, "It could not be reached.") from None
    except ProviderError as made:
        return made


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "x") for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)),
        MemoryError(),
        RuntimeError("can't start new thread"),
        GenericError("Unable to open file /x: Too many open files (os error 24)"),
        ExceptionGroup("every address", [OSError(errno.ECONNREFUSED, "x"), OSError(errno.EMFILE, "x")]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("hide", [lambda error: error, replaced], ids=["itself", "replaced"])
def test_a_lack_is_found(error: Exception, hide: Callable[[Exception], Exception]) -> None:
    assert lack_of(hide(error)) is not None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ECONNREFUSED, "x"),
        OSError("a truncated picture"),
        RuntimeError("a bug"),
        GenericError("no such host (os error 111)"),
        ProviderError(ErrorKind.PROVIDER_FAULT, "Our store failed (os error 24)."),
    ],
    ids=repr,
)
@pytest.mark.parametrize("hide", [lambda error: error, replaced], ids=["itself", "replaced"])
def test_another_fault_is_no_lack(error: Exception, hide: Callable[[Exception], Exception]) -> None:
    assert lack_of(hide(error)) is None


async def test_a_connection_that_gets_no_descriptor_is_a_lack() -> None:
    async with httpx2.AsyncClient(trust_env=False) as client:
        with no_descriptors(), pytest.raises(httpx2.ConnectError) as caught:
            await client.get("http://127.0.0.1:9/")
    assert lack_of(caught.value) is not None
