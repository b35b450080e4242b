"""Everything that an operator may set, with its default and its limits: one class for each table of pixmill.toml.

Secrets are named here (a variable, a file), never held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints

from daemon.settings.values import (
    Bytes,
    Duration,
    HttpBase,
    Listen,
    Names,
    PostgresUrl,
    RedisUrl,
    SecretUrl,
    StoreUrl,
)
from pixmill.text import nearest
from providers.hosts import is_loopback

if TYPE_CHECKING:
    from limiter.quota.quota import Quota

T = TypeVar("T")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Prefix = Annotated[
    str, StringConstraints(pattern=r"^(\{[A-Za-z0-9._-]{1,64}\}|[A-Za-z0-9][A-Za-z0-9._-]{0,63})$")
]
PathPrefix = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._~-]{1,64}){0,8}$")]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]


class SettingsError(Exception):
    """The configuration is wrong: `problems` has a sentence with its place for each problem.

    `rest` has the settings without the wrong ones, if other parts can still look for faults of theirs.
    """

    def __init__(self, problems: Sequence[str], rest: Settings | None = None) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
        self.rest = rest


class Section(BaseModel):
    """A table of the configuration: closed and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class RedisSettings(Section):
    url: RedisUrl | None = Field(
        None, description="redis://, rediss://, redis+sentinel://, redis+cluster://; none: an embedded Valkey"
    )
    prefix: Prefix = Field("pixmill", description="first part of every key; `{pixmill}` on Redis Cluster")


class WorkerSettings(Section):
    max_in_flight: int = Field(64, ge=1, le=100_000, description="jobs that one replica runs at a time")
    drain_timeout: Duration = Field(
        120.0, ge=0, le=86_400, description="how long a stop waits for running items"
    )
    max_backlog_per_tenant: int = Field(
        100_000, ge=0, le=10**9, description="items of one tenant that may wait; 0: no cap"
    )
    lease: Duration = Field(
        15.0, ge=1, le=3_600, description="a replica that is silent for this time counts as crashed"
    )


class StorageSettings(Section):
    url: StoreUrl = Field(
        default_factory=lambda: SecretUrl(f"file://{Path.cwd()}/.pixmill/images"),
        description="file:///dir, s3://bucket/prefix, gs://, az:// or memory://",
    )


class RetentionSettings(Section):
    records: Duration = Field(86_400.0, ge=60, description="how long a record is kept after its end")
    failed_records: Duration = Field(7 * 86_400.0, ge=60, description="the same for records of failures")
    media: Literal["keep"] = Field("keep", description="pictures stay until somebody else removes them")


class MetricsSettings(Section):
    listen: Listen = Field(Listen("127.0.0.1:9108"), description="/metrics, /healthz and /readyz")


class GatewaySettings(Section):
    listen: Listen = Field(Listen("127.0.0.1:8080"), description="where HTTP is served")
    keys_file: Path | None = Field(
        None, description="the keys of callers (`pixmill key new`); none: only this machine is served"
    )
    public_url: HttpBase | None = Field(
        None, description="where callers reach this gateway, if a proxy changes its name or its path"
    )
    max_upload_bytes: Bytes = Field(
        1024**3, ge=1024**2, le=1024**4, description="disk for all uploads under way together"
    )
    path_prefix: PathPrefix = Field(
        "", description="a path below which everything is served, such as /pixmill"
    )
    slide_route: Name = Field("slides", description="the route of the slide maker's pictures")
    studio_route: Name = Field("studio", description="the route of the image studio's batches")


class MirrorSettings(Section):
    postgres: PostgresUrl | None = Field(
        None, description="postgresql://user@host/database, which `pixmill mirror` writes to"
    )


class NetworkSettings(Section):
    allow_hosts: Names = Field([], description="private hosts that may be reached")
    max_input_bytes: Bytes = Field(25 * 1024**2, ge=1024, le=1024**3, description="largest download")
    proxy: Literal["all", "calls"] = Field(
        "all", description="what leaves by the proxy of the environment; `calls`: only calls to providers"
    )


class Credential(Section):
    """One account at a provider. It names where its secrets are; it never holds one."""

    provider: Name
    base_url: HttpBase | None = None
    wire: Name | None = Field(None, description="which of the provider's protocols, where it has several")
    region: Name | None = None
    api_key_env: EnvName | None = None
    api_key_file: Path | None = None
    secret_id_env: EnvName | None = None
    secret_id_file: Path | None = None
    secret_key_env: EnvName | None = None
    secret_key_file: Path | None = None
    options: dict[str, str] = Field(default_factory=dict, description="further options of the provider")

    def resolve(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The secrets by name (`api_key`, `secret_id`, `secret_key`); SettingsError if one is missing."""
        named = {name: (getattr(self, f"{name}_env"), getattr(self, f"{name}_file")) for name in SECRET_NAMES}
        return _all_of(
            {
                name: partial(read_secret, name, variable, file, environ)
                for name, (variable, file) in named.items()
                if variable or file
            }
        )

    def placeholders(self) -> dict[str, str]:
        """Something in place of each secret, for a provider that only checks jobs and never calls."""
        return {
            name: "none"
            for name in SECRET_NAMES
            if getattr(self, f"{name}_env") or getattr(self, f"{name}_file")
        }

    @property
    def is_local(self) -> bool:
        """Whether its base address is this machine itself, as that of a simulator."""
        return self.base_url is not None and is_loopback(urlsplit(self.base_url).hostname or "")

    def provider_options(self) -> dict[str, str]:
        """The options of the provider, beside its base URL and its secrets."""
        return {**self.model_dump(include={"wire", "region"}, exclude_none=True), **self.options}


class WebhookSecret(Section):
    """A secret that signs callbacks; jobs name it in `callback.secret`."""

    secret_env: EnvName | None = None
    secret_file: Path | None = None
    old_secret_env: EnvName | None = Field(None, description="signs as well, while receivers change over")
    old_secret_file: Path | None = None

    def resolve(self, environ: Mapping[str, str] = os.environ) -> str:
        """The secret; raises SettingsError when it is not there."""
        return read_secret("secret", self.secret_env, self.secret_file, environ)

    def resolve_old(self, environ: Mapping[str, str] = os.environ) -> str | None:
        """The former secret, None where none is configured; raises SettingsError when it is not there."""
        if not self.old_secret_env and not self.old_secret_file:
            return None
        return read_secret("old_secret", self.old_secret_env, self.old_secret_file, environ)


class Route(Section):
    """The name that jobs use for an account, a model, and the quotas that a call needs; or for several such routes.

    A route with `any` has none of these three of its own, and no `provider_timeout`.
    """

    credential: str | None = None
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    quotas: Names = Field([], description="every one of them must grant a call")
    provider_timeout: Duration = Field(180.0, gt=0, le=86_400, description="from submit to finished image")
    any: Names = Field([], description="equal routes: the one with the earliest slot takes the item")
    fallback: Names = Field([], description="the routes that take its items while it is down, in this order")


class Settings(Section):
    """The whole configuration. `Settings()` is defaults alone; `load_settings` reads file and environment."""

    redis: RedisSettings = RedisSettings()
    worker: WorkerSettings = WorkerSettings()
    storage: StorageSettings = Field(default_factory=StorageSettings)
    retention: RetentionSettings = RetentionSettings()
    metrics: MetricsSettings = MetricsSettings()
    gateway: GatewaySettings = GatewaySettings()
    mirror: MirrorSettings = MirrorSettings()
    network: NetworkSettings = NetworkSettings()
    credentials: dict[Name, Credential] = Field(default_factory=dict)
    quotas: dict[Name, dict[str, Any]] = Field(default_factory=dict)
    routes: dict[Name, Route] = Field(default_factory=dict)
    webhooks: dict[Name, WebhookSecret] = Field(default_factory=dict)

    # Where each table and each value is written: `pixmill.toml:12`.
    _places: Mapping[tuple[str, ...], str] = PrivateAttr(default_factory=dict)

    def with_places(self, places: Mapping[tuple[str, ...], str]) -> Self:
        """The same settings, which know where each value is written."""
        settings = self.model_copy()
        settings._places = places  # noqa: SLF001 - its own
        return settings

    @property
    def calling_routes(self) -> dict[str, Route]:
        """The routes with an account of their own, so without those with `any`."""
        return {name: route for name, route in self.routes.items() if not route.any}

    def place(self, *at: str) -> str:
        """The beginning of a sentence about a value: `pixmill.toml:12: `, of the value or of its table, or ''."""
        known = (at[:end] for end in range(len(at), 0, -1) if at[:end] in self._places)
        return next((f"{self._places[path]}: " for path in known), "")

    def parsed_quotas(self) -> dict[str, Quota]:
        """The quotas by name; raises SettingsError with every problem, each with its place."""
        return _all_of({name: partial(self._parsed_quota, name) for name in self.quotas})

    def _parsed_quota(self, name: str) -> Quota:
        from limiter.quota.quota import QuotaError, parse_quota

        spec = self.quotas[name]
        try:
            return parse_quota(name, spec)
        except QuotaError as error:
            problems = []
            for problem in error.problems:
                fields = [field for field in spec if f"field {field!r}" in problem]
                problems.append(self.place("quotas", name, *fields[:1]) + problem)
            raise SettingsError(problems) from None


def _all_of(calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """The results of all calls; raises SettingsError with every problem."""
    results: dict[str, T] = {}
    problems: list[str] = []
    for name, call in calls.items():
        try:
            results[name] = call()
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    return results


SECRET_NAMES = ("api_key", "secret_id", "secret_key")


def read_secret(name: str, variable: str | None, file: Path | None, environ: Mapping[str, str]) -> str:
    """A secret from its environment variable or its file; raises SettingsError, which never shows it."""
    if variable:
        if value := environ.get(variable, "").strip():
            return value
        raise SettingsError(
            [f"The environment variable {variable} (`{name}_env`) is not set or empty: set it."]
        )
    if file is None:
        raise SettingsError([f"Neither `{name}_env` nor `{name}_file` is configured."])
    try:
        value = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise SettingsError([f"The file {file} (`{name}_file`) cannot be read: {reason}."]) from None
    if not value:
        raise SettingsError([f"The file {file} (`{name}_file`) is empty."])
    return value


def did_you_mean(given: str, known: Mapping[str, Any] | list[str]) -> str:
    """`; did you mean "x"?`, or the known names, or an empty text."""
    names = sorted(known)
    if close := nearest(given.lower(), names):
        return f"; did you mean `{close}`?"
    return f"; known are {', '.join(f'`{name}`' for name in names)}" if names else "; none is"
