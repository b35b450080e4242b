"""Signs callbacks as Standard Webhooks specifies, and refuses callbacks that could never be delivered.

A signature is `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`. While a secret is being replaced, a message
has one signature of the new and one of the old secret; receivers accept either.
Source: the specification, https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection, Mapping
from functools import partial

from daemon.settings import Settings, SettingsError
from pixmill.contract import Callback, Rejection
from providers.http.addresses import check_url

DEFAULT_SECRET = "default"  # noqa: S105 - the name of a secret
PREFIX = "whsec_"
LEAST_BYTES = 24


class Webhooks:
    """The configured secrets by name (the present one, and perhaps the old one), and the allowed hosts."""

    def __init__(self, secrets: Mapping[str, tuple[bytes, ...]], allow_hosts: Collection[str]) -> None:
        self._secrets = dict(secrets)
        self.allow_hosts = frozenset(allow_hosts)

    @classmethod
    def configured(cls, settings: Settings, environ: Mapping[str, str]) -> Webhooks:
        """The webhooks of a configuration; raises SettingsError with every secret that is missing or malformed."""
        secrets: dict[str, tuple[bytes, ...]] = {}
        problems: list[str] = []
        for name, webhook in settings.webhooks.items():
            try:
                texts = (webhook.resolve(environ), webhook.resolve_old(environ))
                secrets[name] = tuple(secret_bytes(text) for text in texts if text is not None)
            except SettingsError as error:
                problems += [f"webhooks.{name}: {problem}" for problem in error.problems]
        if problems:
            raise SettingsError(problems)
        return cls(secrets, settings.network.allow_hosts)

    def __contains__(self, name: str) -> bool:
        return name in self._secrets

    def check(self, callback: Callback, *, tenant: str, ident: str) -> None:
        """Refuse a callback that could never be delivered; raises Rejection. Nothing is sent for it."""
        refusal = partial(Rejection, "unsupported", tenant=tenant, ident=ident)
        if (problem := check_url(callback.url, self.allow_hosts)) is not None:
            raise refusal(problem, field="callback.url")
        if (callback.secret or DEFAULT_SECRET) not in self._secrets:
            known = ", ".join(f'"{name}"' for name in sorted(self._secrets))
            there_are = f"configured are {known}" if known else "the operator has configured none"
            missing = (
                "`callback.secret` is missing, and no secret called `default` is configured to sign with; name one"
                if callback.secret is None
                else f'`callback.secret` names no configured secret: "{callback.secret}"'
            )
            separator = ":" if callback.secret is None else ";"
            raise refusal(f"{missing}{separator} {there_are}.", field="callback.secret")

    def sign(self, name: str, message_id: str, timestamp_s: int, body: bytes) -> str:
        """The header `webhook-signature`: one signature for each secret of that name. Raises KeyError."""
        signed = b".".join((message_id.encode(), str(timestamp_s).encode(), body))
        return " ".join(
            "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
            for secret in self._secrets[name]
        )


def secret_bytes(text: str) -> bytes:
    """The key inside `whsec_...`; raises SettingsError, which never shows the key."""
    problem = f"a webhook secret is `{PREFIX}` and the base64 of at least {LEAST_BYTES} random bytes"
    if not text.startswith(PREFIX):
        raise SettingsError([f"This does not begin with `{PREFIX}`: {problem}."])
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError([f"The text after `{PREFIX}` is not base64: {problem}."]) from None
    if len(key) < LEAST_BYTES:
        raise SettingsError([f"It holds {len(key)} bytes: {problem}."])
    return key
