"""What a credential of the configuration becomes: a base address, an API key that is shown nowhere, checked options."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import httpx2

from providers.errors import ProviderError


@dataclass(frozen=True, slots=True)
class Account:
    """One account at one provider, reached with a bearer key."""

    base_url: str  # without a slash at its end
    api_key: str = field(repr=False)
    options: Mapping[str, str] = field(repr=False)

    @classmethod
    def configured(
        cls,
        provider: str,
        *,
        base_url: str,
        secrets: Mapping[str, str],
        options: Mapping[str, str],
        known: Collection[str],
    ) -> Account:
        """The account of a credential whose options are among `known`; raises ValueError with a sentence."""
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{name!r} is not an option of the {provider} provider.{hint}")
            if not value.isascii() or not value.isprintable():
                raise ValueError(f"The option {name!r} must be one line of printable ASCII.")
        key = secrets.get("api_key", "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError(
                f"The {provider} provider needs the secret `api_key`: one line of printable ASCII."
            )
        url = httpx2.URL(base_url)
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
            raise ValueError("base_url must be an http(s) URL without user, password and query.")
        return cls(str(url).rstrip("/"), key, dict(options))

    @property
    def host(self) -> str:
        """The provider's host, for messages."""
        return httpx2.URL(self.base_url).host

    @property
    def allow_hosts(self) -> tuple[str, ...]:
        """Hosts whose result addresses may be plain http or private: the option `allow_hosts`, and its own.

        The operator named the base address, so pictures may come from there whatever kind of address it is.
        """
        url = httpx2.URL(self.base_url)
        own = f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"
        return (own, *self.listed("allow_hosts"))

    def listed(self, option: str) -> tuple[str, ...]:
        """An option's values, which are separated by commas."""
        return tuple(part.strip() for part in self.options.get(option, "").split(",") if part.strip())

    def headers(self, by_option: Mapping[str, str]) -> dict[str, str]:
        """The key's header, and one for each option of `by_option` (option to header) that is configured."""
        asked = {header: self.options[name] for name, header in by_option.items() if name in self.options}
        return {"Authorization": f"Bearer {self.api_key}", **asked}

    def without_key(self, error: ProviderError) -> ProviderError:
        """`error` with the key taken out: providers quote keys in forms that no pattern foresees."""
        if self.api_key in error.message:
            error.message = error.message.replace(self.api_key, "***")
            error.args = (error.message,)
        if error.provider_code is not None:
            error.provider_code = error.provider_code.replace(self.api_key, "***")
        return error
