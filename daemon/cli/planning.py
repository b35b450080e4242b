"""Describes a batch before it is sent: its id, its size, and the least time that the quotas allow."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from daemon.accounts.least_time import LeastTime, by_account, least_time, pictures_by_route
from daemon.cli.output import seconds
from daemon.compat.studio import as_ident
from daemon.files.batch_file import BatchFile
from daemon.files.columns import hint
from daemon.settings import Settings
from pixmill.client.sending import batch_parts
from pixmill.text import shortened

SHOWN_ITEMS = 3
PROMPT_CHARS = 100


def batch_id(file: Path, fields: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> str:
    """An id from the file's name and a hash of the sent content: the same content gives the same batch."""
    digest = hashlib.sha256(orjson.dumps([fields, items], option=orjson.OPT_SORT_KEYS)).hexdigest()
    return f"{as_ident(file.stem)[:100]}-{digest[:8]}"


def left_out(file: BatchFile) -> list[str]:
    """A sentence about the columns that nothing uses, and one about the rows that were skipped."""
    notes = []
    if file.unused:
        names = (f"{name} (did you mean {near}?)" if (near := hint(name)) else name for name in file.unused)
        notes.append(f"Columns that nothing uses: {', '.join(names)}.")
    if file.skipped:
        notes.append(f"Rows that were left out, because they have no prompt: {file.skipped}.")
    return notes


def plan_of(fields: Mapping[str, Any], file: BatchFile, settings: Settings) -> dict[str, Any]:
    """The plan as `--json` prints it.

    `at_least_seconds` is the bound of the strictest quota without the time that calls take; null if none is known.
    Raises Rejection when the batch cannot be sent, SettingsError for quotas that cannot be read.
    """
    defaults, items = fields["defaults"], file.items
    parts = batch_parts(fields, items)
    routes = pictures_by_route(items, defaults)
    at_least_s, bound = _least_time(routes, settings)
    return {
        "dry_run": True,
        "batch": fields["id"],
        "tenant": fields["tenant"],
        "items": len(items),
        "pictures": routes.total(),
        "parts": len(parts),
        "unused_columns": list(file.unused),
        "skipped_rows": file.skipped,
        "notes": left_out(file),
        "routes": dict(routes.most_common()),
        "unknown_routes": sorted(routes.keys() - settings.routes.keys()) if settings.routes else [],
        "first": [
            {"id": item["id"], "prompt": _in_one_line(item.get("prompt") or defaults["prompt"])}
            for item in items[:SHOWN_ITEMS]
        ],
        "bound": bound and bound.quota,
        "at_least_seconds": at_least_s,
    }


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """The plan in words."""
    in_parts = f" in {plan['parts']} parts" if plan["parts"] > 1 else ""
    lines = [
        f"would send batch {plan['batch']} (tenant {plan['tenant']}): {plan['items']} items{in_parts}, "
        f"{plan['pictures']} pictures"
    ]
    for route, pictures in plan["routes"].items():
        unknown = ", which is not configured here" if route in plan["unknown_routes"] else ""
        lines.append(f"  route {route}: {pictures} pictures{unknown}")
    lines += [f"  {item['id']}: {item['prompt']}" for item in plan["first"]]
    if (more := plan["items"] - len(plan["first"])) > 0:
        lines.append(f"  and {more} more")
    lines += plan["notes"]
    if plan["at_least_seconds"] is None:
        return [*lines, "No quota of these routes is known here, so the time is not known either."]
    least = seconds(plan["at_least_seconds"])
    return [*lines, f"At least {least} by quota {plan['bound']}, and the time that calls take."]


def _least_time(routes: Mapping[str, int], settings: Settings) -> LeastTime:
    quotas = settings.parsed_quotas()
    spends = {name: [quotas[quota] for quota in route.quotas] for name, route in settings.routes.items()}
    equals = {name: route.any for name, route in settings.routes.items()}
    return least_time(by_account(routes, spends, equals), spends)


def _in_one_line(prompt: str) -> str:
    return shortened(" ".join(prompt.split()), PROMPT_CHARS)
