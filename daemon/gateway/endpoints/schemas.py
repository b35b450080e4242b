"""The JSON Schemas of jobs, batches and events."""

from __future__ import annotations

from fastapi import APIRouter, Response

from daemon.gateway.answering.problems import not_found
from daemon.gateway.callers.access import READS
from daemon.gateway.work.answers import answer
from pixmill.contract.schema import SCHEMA_NAMES, schema

router = APIRouter(tags=["schemas"])


@router.get("/v1/schema/{name}", dependencies=[READS])
async def show(name: str) -> Response:
    """The JSON Schema (2020-12) of a job, a batch or an event."""
    if name not in SCHEMA_NAMES:
        raise not_found()
    return answer(schema(name))
