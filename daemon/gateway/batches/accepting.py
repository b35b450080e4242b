"""Accepts a whole batch: every part is checked before the first one is recorded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from daemon.accounts.least_time import LeastTime, by_account, least_time
from daemon.gateway.answering.problems import Problem, of_rejection
from daemon.gateway.batches.drafts import Draft, Fault
from daemon.gateway.gateway import Gateway
from daemon.gateway.requests.origin import origin
from daemon.gateway.work.accepting import raise_full
from daemon.intake.acceptance import CONFLICT, Acceptor, PreparedPart
from pixmill.client.sending import batch_parts, items_from
from pixmill.contract import BATCH_TYPE, Batch, Rejection, parse_payload
from pixmill.contract.batches import check_content
from pixmill.records.records import GroupView

MOST_SHOWN = 100  # faults in a refusal


@dataclass(frozen=True, slots=True)
class Plan:
    """The result of a draft: its parts, which can be accepted unless there are faults."""

    parts: Sequence[PreparedPart]
    faults: Sequence[Fault] = ()

    def pictures(self) -> Counter[str]:
        """The pictures by route."""
        return Counter(item.route for part in self.parts for item in part.items)


async def plan_of(draft: Draft, acceptor: Acceptor) -> Plan:
    """The plan of a draft; checks everything, and sends nothing."""
    if draft.faults:
        return Plan((), draft.faults)
    # Ten thousand checks take seconds, and other requests must not wait for them.
    return await asyncio.to_thread(_checked, draft, acceptor)


def _checked(draft: Draft, acceptor: Acceptor) -> Plan:
    try:
        return Plan(prepared(draft.fields, draft.items, acceptor))
    except Rejection as rejection:
        return Plan((), draft.fault_of(rejection))


async def dry_plan_of(draft: Draft, acceptor: Acceptor) -> Plan:
    """As `plan_of`, for a dry run: the faults of all items, and the parts of the items without one."""
    return await asyncio.to_thread(_dry_plan, draft, acceptor)


def _dry_plan(draft: Draft, acceptor: Acceptor) -> Plan:
    try:
        return Plan(prepared(draft.fields, draft.items, acceptor) if draft.items else (), draft.faults)
    except Rejection as rejection:
        if not (rejection.field or "").startswith("items."):
            return Plan((), [*draft.faults, *draft.fault_of(rejection)])
    # Something is wrong with one item at least; each of the others is a picture all the same.
    good, faults = list[dict[str, Any]](), list(draft.faults)
    for index, item in enumerate(draft.items):
        try:
            with items_from(index):
                prepared(draft.fields, [item], acceptor)
            good.append(item)
        except Rejection as rejection:
            faults += draft.fault_of(rejection)
    try:
        return Plan(prepared(draft.fields, good, acceptor) if good else (), faults)
    except Rejection as rejection:  # of several items together, such as two with one id
        return Plan((), faults or draft.fault_of(rejection))


def prepared(fields: dict[str, Any], items: list[dict[str, Any]], acceptor: Acceptor) -> list[PreparedPart]:
    """The parts of a batch, cut as for the jobs stream: the same batch may come either way. Raises Rejection."""
    check_content(fields.get("defaults") or {}, items)
    parts: list[PreparedPart] = []
    before = 0
    for data in batch_parts(fields, items):
        batch = cast("Batch", parse_payload(data, BATCH_TYPE))
        with items_from(before):
            parts.append(acceptor.prepared(batch, origin()))
        before += len(batch.items)
    return parts


async def accept(here: Gateway, parts: Sequence[PreparedPart]) -> GroupView:
    """Accept all parts; returns the batch's record. Raises Problem for a conflict, Rejection for a full backlog."""
    await accept_parts(here, parts)
    return await record_of(here, parts)


async def record_of(here: Gateway, parts: Sequence[PreparedPart]) -> GroupView:
    """The record of a batch that was just accepted. Raises Problem when it has been deleted since."""
    view = await here.records.group(parts[0].gid)
    if view is None:
        raise _deleted()
    return view


def _deleted() -> Problem:
    return Problem(410, "expired", "The batch was accepted and has been deleted since.")


async def accept_parts(here: Gateway, parts: Sequence[PreparedPart]) -> None:
    """Accept all parts, and read nothing back. Raises as `accept`."""
    for number, part in enumerate(parts):
        part, later = (part.begun(), ()) if number else (part, parts[1:])
        try:
            verdict = await here.acceptor.part(part, later=later)
        except Rejection as rejection:
            if rejection.code != "backlog_full":
                raise
            pictures = sum(len(each.items) for each in parts)
            await raise_full(here, rejection, part.batch.tenant, part.items[0].route, pictures)
        if verdict == "conflict":
            raise Problem(409, "id_conflict", CONFLICT, field="id")
        if verdict == "gone":
            raise _deleted()


def least_time_of(here: Gateway, pictures: Counter[str]) -> LeastTime:
    """The least time that the quotas of the routes allow for so many pictures."""
    quotas = here.routes.quotas()
    equals = {name: route.equals for name, route in here.routes.items()}
    return least_time(by_account(pictures, quotas, equals), quotas)


def fault_of_head(problem: Problem) -> Fault:
    """The fault of a batch whose head is wrong."""
    return Fault(problem.more.get("line"), problem.field, problem.detail, problem.code)


def refusal_of(faults: Sequence[Fault]) -> Problem:
    """The answer for a batch with faults: the first one, with its line, and the others in `refused`."""
    first = faults[0]
    problem = of_rejection(Rejection(first.code, first.message, field=first.field))  # type: ignore[arg-type]  # it came from a refusal
    more: dict[str, Any] = {"refused": [fault.as_dict() for fault in faults[:MOST_SHOWN]]}
    if first.line is not None:
        more["line"] = first.line
    if first.line is not None and first.line > 1:  # many bodies are one line
        problem.detail = f"Line {first.line}: {problem.detail}"
    problem.more = more
    return problem
