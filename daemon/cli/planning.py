"""What a batch would be, before it is sent: its id, its size, and the least time that the quotas allow."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from daemon.cli.output import seconds
from daemon.cli.session import Session
from daemon.client.sending import batch_parts
from daemon.compat.studio import as_ident
from daemon.settings import Settings

FIRST = 3  # items that are shown
PROMPT_CHARS = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """`at_least_s` is the bound of the strictest quota, without the time that calls take; None if none is known."""

    batch: str
    tenant: str
    items: int
    pictures: int
    parts: int
    routes: dict[str, int]
    unknown_routes: tuple[str, ...]
    first: tuple[dict[str, Any], ...]
    at_least_s: float | None
    bound: str | None


def batch_id(file: Path, fields: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """The file's name and a hash of all that is sent: the same content is the same batch."""
    digest = hashlib.sha256(orjson.dumps([fields, items], option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"{as_ident(file.stem)[:100]}-{digest[:8]}"


def plan_of(fields: Mapping[str, Any], items: Sequence[Mapping[str, Any]], settings: Settings) -> Plan:
    """Raises Rejection when the batch cannot be sent, SettingsError for quotas that cannot be read."""
    parts = batch_parts(fields, items)
    defaults = fields["defaults"]
    routes: Counter[str] = Counter()
    for item in items:
        routes[item.get("route", defaults.get("route", "default"))] += item.get("n", defaults.get("n", 1))
    at_least_s, bound = _bound(routes, settings)
    return Plan(
        batch=fields["id"],
        tenant=fields["tenant"],
        items=len(items),
        pictures=routes.total(),
        parts=len(parts),
        routes=dict(routes.most_common()),
        unknown_routes=tuple(sorted(routes.keys() - settings.routes.keys())) if settings.routes else (),
        first=tuple({"id": item["id"], "prompt": _prompt(item, defaults)} for item in items[:FIRST]),
        at_least_s=at_least_s,
        bound=bound,
    )


def tell_plan(session: Session, plan: Plan) -> None:
    """The plan as text or JSON."""
    if session.as_json:
        content = asdict(plan)
        content["at_least_seconds"] = content.pop("at_least_s")
        session.printer.document({"dry_run": True, **content})
        return
    say = session.printer.line
    in_parts = f" in {plan.parts} parts" if plan.parts > 1 else ""
    say(
        f"would send batch {plan.batch} (tenant {plan.tenant}): {plan.items} items{in_parts}, {plan.pictures} pictures"
    )
    for route, pictures in plan.routes.items():
        unknown = ", which is not configured here" if route in plan.unknown_routes else ""
        say(f"  route {route}: {pictures} pictures{unknown}")
    for item in plan.first:
        say(f"  {item['id']}: {item['prompt']}")
    if plan.items > len(plan.first):
        say(f"  and {plan.items - len(plan.first)} more")
    if plan.at_least_s is None:
        say("No quota of these routes is configured here, so the time is not known.")
    else:
        say(f"At least {seconds(plan.at_least_s)} by quota {plan.bound}, and the time that calls take.")


def _bound(routes: Mapping[str, int], settings: Settings) -> tuple[float | None, str | None]:
    """The quota that takes longest for all pictures of the routes that spend it."""
    quotas = settings.parsed_quotas()
    spent: Counter[str] = Counter()
    for name, pictures in routes.items():
        if (route := settings.routes.get(name)) is not None:
            for quota in route.quotas:
                spent[quota] += pictures
    bounds = [(quotas[name].optimum_s(pictures), name) for name, pictures in spent.items()]
    return max(bounds, default=(None, None))


def _prompt(item: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    prompt = " ".join(str(item.get("prompt") or defaults.get("prompt") or "").split())
    return prompt if len(prompt) <= PROMPT_CHARS else f"{prompt[: PROMPT_CHARS - 1]}…"
