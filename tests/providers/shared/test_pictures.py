"""A picture whose address cannot be fetched: the reason, and that it is paid for all the same."""

from __future__ import annotations

import pytest

from providers.base import Picture
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.shared.answers import fetch_picture


async def failure(url: str) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await fetch_picture(Picture(url=url), host="api.example.com", allow_hosts=())
    return caught.value


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("https://10.0.0.7/x.png", "10.0.0.7"),
        ("http://cdn.example.com/x.png", "cdn.example.com"),
        ("https://cdn.example.com:8443/x.png", "cdn.example.com:8443"),
    ],
)
async def test_a_refused_address_is_not_bought_again_and_names_its_setting(url: str, entry: str) -> None:
    error = await failure(url)
    assert (error.kind, error.retry, error.charged) == (
        ErrorKind.RESULT_DOWNLOAD,
        Retry.NEVER,
        Charged.YES,
    )
    assert f"add {entry} to `allow_hosts` of the credential" in error.message


async def test_an_address_that_nothing_can_allow_names_no_setting() -> None:
    error = await failure("https://169.254.169.254/latest/meta-data")
    assert (error.kind, error.retry) == (ErrorKind.RESULT_DOWNLOAD, Retry.NEVER)
    assert "allow_hosts" not in error.message
