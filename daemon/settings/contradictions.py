"""Finds values of the configuration that are right alone and wrong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from daemon.settings.model import SECRET_NAMES, Route, Section, Settings, did_you_mean
from daemon.settings.sources import Path_
from daemon.settings.spares import wrong_spares
from pixmill.broker.redis_url import one_slot_sentence, topology_of
from providers.hosts import is_loopback

Contradiction = tuple[Path_, str]


def contradictions(settings: Settings, named: Mapping[str, Any] = {}) -> Iterator[Contradiction]:
    """(path, sentence) for every value that contradicts another one.

    `named` are tables that exist although they are left out here, by their section.
    """
    credentials = {**settings.credentials, **named.get("credentials", {})}
    quotas = {**settings.quotas, **named.get("quotas", {})}
    for name, route in settings.routes.items():
        yield from _unknown_names(name, route, credentials, quotas)
        yield from _account_or_equals(name, route)
    yield from wrong_spares(settings, credentials, named.get("routes", {}))
    for name, credential in settings.credentials.items():
        yield from _doubled(("credentials", name), credential, SECRET_NAMES)
    if settings.storage.url.reveal().startswith("memory:"):
        for name, credential in settings.credentials.items():
            if not credential.is_local:
                sentence = (
                    f"is memory://, which ends with the process, and `credentials.{name}` is a real account: "
                    "its pictures are paid for, so name a store that keeps them"
                )
                yield ("storage", "url"), sentence
    for name, webhook in settings.webhooks.items():
        yield from _doubled(("webhooks", name), webhook, ("secret", "old_secret"))
        if not webhook.secret_env and not webhook.secret_file:
            yield ("webhooks", name), "needs `secret_env` or `secret_file`"
    if settings.gateway.keys_file is None and not is_loopback(settings.gateway.listen.host):
        yield (
            ("gateway", "listen"),
            "would serve other machines without keys: set `gateway.keys_file` (`pixmill key new` makes a key)",
        )
    on_cluster = settings.redis.url is not None and topology_of(settings.redis.url.reveal()) == "cluster"
    if on_cluster and not settings.redis.prefix.startswith("{"):
        yield ("redis", "prefix"), one_slot_sentence(settings.redis.prefix)


def _unknown_names(
    name: str, route: Route, credentials: Mapping[str, Any], quotas: Mapping[str, Any]
) -> Iterator[Contradiction]:
    wanted: list[tuple[str, str, str, Mapping[str, Any]]] = [
        *([("credential", "credential", route.credential, credentials)] if route.credential else []),
        *(("quotas", "quota", quota, quotas) for quota in route.quotas),
    ]
    for field, what, given, known in wanted:
        if given not in known:
            hint = did_you_mean(given, known)
            yield ("routes", name, field), f'names a {what} "{given}" that is not configured{hint}'


def _account_or_equals(name: str, route: Route) -> Iterator[Contradiction]:
    own: dict[str, object] = {"credential": route.credential, "model": route.model}
    if not route.any:
        yield from ((("routes", name, field), "is missing") for field, value in own.items() if value is None)
        return
    own |= {"quotas": route.quotas, "provider_timeout": "provider_timeout" in route.model_fields_set}
    for field in (field for field, value in own.items() if value):
        yield ("routes", name, field), "is set beside `any`: the routes that it names have their own"


def _doubled(at: Path_, section: Section, names: tuple[str, ...]) -> Iterator[Contradiction]:
    for name in names:
        if getattr(section, f"{name}_env") and getattr(section, f"{name}_file"):
            yield (*at, f"{name}_file"), f"is set beside `{name}_env`: keep one of them"
