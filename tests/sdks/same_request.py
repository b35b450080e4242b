"""What two clients sent for the same wish, compared: everything must agree but a short list of headers."""

from __future__ import annotations

import json
from collections.abc import Collection
from email import message_from_bytes
from email.policy import HTTP
from fnmatch import fnmatch
from typing import Any

from providers.simulator.recorder import Recorded


def assert_same(ours: Recorded, theirs: Recorded, *, but: Collection[str]) -> None:
    """Method, path, headers and meaning of the body agree, except for the headers in `but`.

    `but` has names or patterns like "x-stainless-*". One that no difference needs is an error too, so that the list
    stays as short as it can be.
    """
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert meaning(ours) == meaning(theirs)
    differing = _differing(ours, theirs)
    forbidden = {name for name in differing if not any(fnmatch(name, pattern) for pattern in but)}
    idle = {pattern for pattern in but if not any(fnmatch(name, pattern) for name in differing)}
    assert not forbidden, f"these headers differ: {forbidden}"
    assert not idle, f"these headers may differ and do not: {idle}"


def meaning(request: Recorded) -> Any:
    """The body without what encoders are free to choose: order and spaces of JSON, the boundary of a form."""
    content_type = dict(request.headers).get("content-type", "")
    if not content_type.startswith("multipart/"):
        return json.loads(request.body) if request.body else None
    form = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + request.body, policy=HTTP)
    return sorted(
        (
            str(part.get_param("name", header="content-disposition")),
            part.get_filename() or "",
            part.get_content_type(),
            part.get_payload(decode=True),
        )
        for part in form.iter_parts()
    )


def _differing(ours: Recorded, theirs: Recorded) -> set[str]:
    one, other = _headers(ours), _headers(theirs)
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


def _headers(request: Recorded) -> dict[str, str]:
    headers = dict(request.headers)
    # Which packed answers a client takes is its own matter; ours takes those that it unpacks in small steps.
    headers.pop("accept-encoding", None)
    if headers.get("content-type", "").startswith("multipart/"):
        headers["content-type"], _, _ = headers["content-type"].partition(";")
    return headers
