"""From what a provider sends to a picture's bytes: base64, `data:` URLs, and addresses to fetch from.

Whatever the way, what comes out has been recognised as a picture, or a ProviderError says what it was.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection

from providers.base import Picture
from providers.errors import Charged, ErrorKind, ProviderError, Retry
from providers.http.client import DownloadError, download, sniff_format

MAX_PICTURE_BYTES = 64 * 1024 * 1024


def decoded_picture(encoded: str, host: str) -> bytes:
    """The picture in base64 text or in a whole `data:` URL; raises `bad_response`."""
    plain = encoded.partition(",")[2] if encoded.startswith("data:") else encoded
    try:
        data = base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(f"{host} sent a picture whose base64 is broken or cut off.") from None
    return _recognised(data, f"What {host} sent")


async def fetch_picture(picture: Picture, *, host: str, allow_hosts: Collection[str]) -> bytes:
    """The bytes of `picture`, downloaded if it only has an address.

    Raises `result_download` (try again, or, where our own rules refuse the address, never), `result_expired` (nothing
    is at the address: no more, or not yet) or `bad_response` (it leads to no picture). In each case the picture has
    been paid for.
    """
    if picture.data is not None:
        return picture.data
    if picture.url is None:
        raise _bad(f"{host} gave neither a picture nor an address.")
    try:
        data = await download(picture.url, max_bytes=MAX_PICTURE_BYTES, allow_hosts=allow_hosts)
    except DownloadError as error:
        raise _download_failure(error) from None
    return _recognised(data, f"The address that {host} gave for the picture")


def _recognised(data: bytes, what: str) -> bytes:
    if sniff_format(data) is None:
        raise _bad(f"{what} is not a PNG, JPEG or WebP picture.")
    return data


def _download_failure(error: DownloadError) -> ProviderError:
    message = f"The picture was made, but: {error.problem}"
    if error.allow is not None:
        message += f" If that host may be trusted, add {error.allow} to `allow_hosts` of the credential."
    kind, retry = ErrorKind.RESULT_DOWNLOAD, None
    if error.refused:
        retry = Retry.NEVER  # another picture would be refused as well; the operator may allow the address
    elif error.http_status in (403, 404, 410):
        kind = ErrorKind.RESULT_EXPIRED
    return ProviderError(kind, message, http_status=error.http_status, retry=retry, charged=Charged.YES)


def _bad(message: str) -> ProviderError:
    return ProviderError(ErrorKind.BAD_RESPONSE, message, http_status=200)
