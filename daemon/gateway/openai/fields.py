"""Turns what clients of OpenAI send into a job, and says how its pictures are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemon.accounts.routes import Route, Routes
from daemon.gateway.answering.problems import Problem
from pixmill.contract.explain import nearest

DEFAULT_ROUTE: Final = "default"
# Sent to the provider as they are; its check refuses what it does not know.
PARAMS: Final = ("quality", "style", "background", "moderation", "input_fidelity")
# Fields of our own jobs, for clients that can send more fields (`extra_body`).
OWN: Final = ("negative_prompt", "seed", "priority", "deadline", "cache", "metadata")
# About the person behind the client, who is nobody's business at the provider.
PERSON: Final = ("user", "safety_identifier")
KNOWN: Final = (
    *("model", "prompt", "n", "size", "response_format", "output_format", "output_compression"),
    *("stream", "partial_images", *PARAMS, *OWN, *PERSON),
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A job's fields, and the form of the answer. `shown` has what events repeat of the request."""

    job: dict[str, Any]
    as_url: bool
    stream: bool
    shown: dict[str, str]


def wish_of(body: Mapping[str, Any], routes: Routes) -> Wish:
    """The wish in a request. Raises Problem: 404 for an unknown model, 400 for a field that cannot be meant."""
    for name in body:
        if name not in KNOWN:
            guess = nearest(name, sorted(KNOWN))
            hint = f" Did you mean '{guess}'?" if guess else ""
            raise Problem(400, "unknown_parameter", f"Unknown parameter: '{name}'.{hint}", field=name)
    given = {name: value for name, value in body.items() if value is not None and value != "auto"}
    job: dict[str, Any] = {name: given[name] for name in ("prompt", "n", "size", *OWN) if name in given}
    job["route"] = route_of(given.get("model"), routes)
    if params := {name: given[name] for name in PARAMS if name in given}:
        job["params"] = params
    output = {"format": given.get("output_format"), "quality": given.get("output_compression")}
    if output := {name: value for name, value in output.items() if value is not None}:
        job["output"] = output
    metadata = job.get("metadata", {})
    # Metadata of another type is for the contract to refuse.
    if isinstance(metadata, dict) and (person := {name: given[name] for name in PERSON if name in given}):
        job["metadata"] = {**person, **metadata}
    return Wish(job, _as_url(given), _flag(given, "stream"), _shown(body))


def models_of(routes: Routes) -> dict[str, Route]:
    """The routes by the names that `model` may have: their own, then that of a model, for the first route with it."""
    found = dict(routes)
    for route in routes.values():
        found.setdefault(route.model, route)
    return found


def route_of(model: Any, routes: Routes) -> str:
    """The route that a model's name leads to. Raises Problem 404 for an unknown one."""
    if model is None:
        return DEFAULT_ROUTE
    known_models = models_of(routes)
    if isinstance(model, str) and model in known_models:
        return known_models[model].name
    known = ", ".join(routes)
    raise Problem(
        404,
        "model_not_found",
        f"The model '{str(model)[:80]}' does not exist here; known are the routes {known}, and their models.",
        field="model",
    )


def _as_url(given: Mapping[str, Any]) -> bool:
    form = given.get("response_format", "b64_json")
    if form not in ("b64_json", "url"):
        raise Problem(400, "invalid", "`response_format` must be b64_json or url.", field="response_format")
    return bool(form == "url")


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise Problem(400, "invalid", f"`{name}` must be true or false.", field=name)
    return value


def _shown(body: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(body.get(name) or "auto") for name in ("background", "quality")}
