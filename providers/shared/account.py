"""The configuration that all provider accounts share: options, secrets, base address.

Every function that refuses raises ValueError with a sentence for the operator, which never shows a secret.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import httpx2

from pixmill.text import nearest


def check_options(provider: str, options: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse an option that the provider does not have, with the nearest one that it has."""
    for name in options:
        if name not in known:
            raise ValueError(
                f"{name!r} is not an option of the {provider} provider.{nearest_hint(name, known)}"
            )


def chosen(options: Mapping[str, str], name: str, choices: Collection[str], *, default: str) -> str:
    """The value of an option with few `choices`, in lower case; raises with the nearest choice."""
    value = options.get(name, default).lower()
    if value not in choices:
        known = ", ".join(choices)
        raise ValueError(
            f"The option {name!r} is one of {known}, not {value!r}.{nearest_hint(value, choices)}"
        )
    return value


def check_header_options(options: Mapping[str, str], names: Collection[str]) -> None:
    """Refuse the value of an option that becomes a header and cannot be one."""
    for name in names:
        value = options.get(name, "")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"The option {name!r} must be one line of printable ASCII.")


def secret_of(provider: str, secrets: Mapping[str, str], name: str = "api_key") -> str:
    """The secret `name`, fit to be sent in a header."""
    secret = secrets.get(name, "").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise ValueError(
            f"The {provider} provider needs the secret `{name}`, one line of printable ASCII: "
            f"write `{name}_env` with the name of its variable, or `{name}_file` with its file."
        )
    if secret[0] in _QUOTES and secret[-1] in _QUOTES:
        # Env files of containers keep quotes as a part of the value.
        raise ValueError(
            f"The secret `{name}` of the {provider} provider stands in quotes: set it without them."
        )
    if " " in secret:
        raise ValueError(
            f"The secret `{name}` of the {provider} provider holds a blank: set the bare key alone."
        )
    return secret


_QUOTES = "\"'`"


def base_address(text: str) -> httpx2.URL:
    """A base address that can be sent a credential."""
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise ValueError("base_url must be an http(s) URL without user, password and query.")
    return url


def picture_hosts(base: httpx2.URL, options: Mapping[str, str]) -> tuple[str, ...]:
    """Hosts whose pictures may be fetched although they are private or use plain http.

    The operator named the base address, so its pictures are always allowed; the option `allow_hosts` names more hosts.
    """
    own = f"{base.host}:{base.port or (443 if base.scheme == 'https' else 80)}"
    return own, *listed(options.get("allow_hosts"))


def listed(text: str | None) -> tuple[str, ...]:
    """The parts of a list that is written with commas."""
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def nearest_hint(name: str, known: Collection[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one; empty if none is near."""
    near = nearest(name, known)
    return f" Did you mean {near!r}?" if near else ""
