"""Turns an object store's failures into sentences for the operator, without credentials."""

from __future__ import annotations

from typing import Final

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from pixmill.redaction import redact

NO_CREATE_ONLY: Final = (
    "this store refuses a PUT that only creates (If-None-Match), and without it a late worker would replace a picture. "
    "Amazon S3, Google Cloud Storage, Azure Blob Storage, Cloudflare R2 and MinIO have it; Alibaba's OSS has not."
)


def bucket_missing(error: Exception) -> bool:
    """Whether the bucket itself is missing; obstore reports it like a missing object."""
    return "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error)


def reason_of(error: Exception) -> str:
    """A failure in a sentence, with advice where its cause is known."""
    text = str(error)
    if "NotImplemented" in text or "501 Not Implemented" in text:
        return NO_CREATE_ONLY
    return f"{first_line(error)}{_hint(error)}"


def _hint(error: Exception) -> str:
    """Advice for the operator, or "" for an unknown cause."""
    text = str(error)
    if bucket_missing(error):
        return ". There is no such bucket: check storage.url."
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return ". Check the store's credential and what it may do."
    if "os error 28" in text or "os error 122" in text:
        return ". The disk is full."
    if "os error 24" in text or "os error 23" in text:
        return ". No file descriptor is left: raise the limit (`ulimit -n`)."
    if "os error 30" in text or "os error 13" in text:
        return ". The directory cannot be written."
    return ""


def first_line(error: Exception) -> str:
    """The first line, redacted: obstore's debug section and addresses can hold request details and secrets."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return redact(str(error).splitlines()[0]) if str(error) else type(error).__name__
