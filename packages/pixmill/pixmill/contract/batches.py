"""The requests of producers beside single jobs: batches, cancels and retries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from pixmill.contract.fields import (
    IDENT_TEXT,
    METADATA_TEXT,
    TRUSTED,
    Ident,
    Metadata,
    Model,
    ShortText,
    problem,
)
from pixmill.contract.jobs import MOST_PICTURES, Callback, Job, JobDefaults, check_fit
from pixmill.contract.rejection import Rejection, clipped

ITEMS_MAX = 1000
MOST_CONTENT_BYTES = (
    64 * 1024**2
)  # of all pictures of a batch: each has its item's fields and the shared ones
# The folder of jobs without a batch: a batch of this name would share the keys of their pictures.
SINGLES = "single"


class TakenIds:
    """The ids that jobs take: their own, and those of their pictures if there are several (`a.0`, `a.1`)."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def add(self, ident: str, n: int, place: int) -> tuple[str, int] | None:
        """Take the ids of a job at a place; returns one that an earlier place has taken, with that place."""
        for taken in (ident, *(f"{ident}.{k}" for k in range(n) if n > 1)):
            if (first := self._first.setdefault(taken, place)) != place:
                return taken, first
        return None


def check_content(defaults: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a batch, whose items may still be wrong, before its pictures fill the memory; raises Rejection."""
    size, shared = 0, len(orjson.dumps(defaults))
    for item in items:
        n = item.get("n", defaults.get("n", 1))
        pictures = n if isinstance(n, int) and 1 <= n <= MOST_PICTURES else 1
        size += pictures * (shared + len(orjson.dumps(item)))
    _check_size(size)


def _check_size(size: int) -> None:
    most = MOST_CONTENT_BYTES // 1024**2
    if size > MOST_CONTENT_BYTES:
        sentence = (
            f"The fields of all pictures have {size // 1024**2} MiB, since `defaults` count for each; at most "
            f"{most} MiB are allowed: shorten `defaults`, or send several batches."
        )
        raise Rejection("too_large", sentence, field="defaults")


class BatchItem(JobDefaults):
    """One job of a batch: its own id, and the fields that differ from the batch's defaults."""

    id: Ident = Field(description=IDENT_TEXT)


class Batch(Model):
    """Up to 1000 jobs that are counted and reported together.

    A larger batch is sent as several entries with the same id, tenant and `parts`, each with its own `part`
    (from 1), defaults and items. It finishes when all parts have been read and all of their items have ended.
    """

    id: Ident = Field(description=IDENT_TEXT)
    tenant: Ident = Field("default", description=IDENT_TEXT)
    defaults: JobDefaults = Field(JobDefaults(), description="an object with the fields that the items share")
    items: list[BatchItem] = Field(
        min_length=1,
        max_length=ITEMS_MAX,
        description=f"a list of 1 to {ITEMS_MAX} jobs (send more as `parts`)",
    )
    max_in_flight: int | None = Field(None, ge=1, le=100, description="a whole number from 1 to 100")
    callback: Callback | None = Field(None, description="an object with url, events and secret")
    metadata: Metadata | None = Field(None, description=METADATA_TEXT)
    part: int = Field(1, ge=1, le=1000, description="a whole number from 1 to `parts`")
    parts: int = Field(1, ge=1, le=1000, description="a whole number from 1 to 1000")

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each value that was dropped or changed on the way in."""
        return self._warnings

    def with_warnings(self, warnings: list[str]) -> Self:
        """The same batch, carrying these warnings."""
        batch = self.model_copy()
        batch._warnings = tuple(warnings)  # noqa: SLF001 - its own
        return batch

    def to_data(self) -> bytes:
        """Its JSON for the jobs stream."""
        return self.model_dump_json(exclude_unset=True).encode()

    def jobs(self) -> list[Job]:
        """Its items with defaults and tenant filled in, field by field; nothing is merged inside a field.

        Raises Rejection if the defaults, which each picture gets, would fill the memory.
        """
        shared = self.defaults.given()
        pictures = sum(item.n if "n" in item.model_fields_set else self.defaults.n for item in self.items)
        _check_size(pictures * len(self.defaults.model_dump_json(exclude_unset=True)))
        return [
            Job.model_validate({**shared, **item.given(), "tenant": self.tenant}, context=TRUSTED)
            for item in self.items
        ]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.id == SINGLES:
            raise problem(
                '`{field}`: "single" is where jobs without a batch are kept; choose another id.', "id"
            )
        if self.part > self.parts:
            raise problem(f"`{{field}}` is {self.part}, but there are only {self.parts} `parts`.", "part")
        shared, ids = self.defaults.given(), TakenIds()
        for index, item in enumerate(self.items):
            merged = {**shared, **item.given()}
            if merged.get("prompt") is None:
                raise problem(
                    "`{field}` is missing: give it here or in `defaults`.", "items", index, "prompt"
                )
            check_fit(merged, ("items", index))
            if clash := ids.add(item.id, merged.get("n", 1), index):
                sentence = f'`{{field}}`: the id "{clipped(clash[0])}" is already taken by item {clash[1]}; '
                raise problem(f"{sentence}ids must be unique within a batch.", "items", index, "id")
        return self


class _Target(Model):
    """The work that an order is about: a whole batch or one job."""

    batch: Ident | None = Field(None, description=IDENT_TEXT)
    job: Ident | None = Field(None, description=IDENT_TEXT)
    tenant: Ident = Field("default", description=IDENT_TEXT)

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.batch is None and self.job is None:
            raise problem("Give `batch` or `job`: the id of the work.")
        return self


CancelStatus = Literal["queued", "throttled", "retry_wait", "running", "held"]
ErrorKind = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
RetryStatus = Literal["failed", "cancelled", "expired", "held"]


class Cancel(_Target):
    """Cancel items that have not ended; with both ids, one item of a batch. `statuses` narrows it to these states."""

    statuses: list[CancelStatus] | None = Field(
        None, min_length=1, description="a list of queued, throttled, retry_wait, running or held"
    )


class RetryRequest(_Target):
    """Run again items that did not succeed. Without `statuses`: the failed ones."""

    statuses: list[RetryStatus] | None = Field(
        None, min_length=1, description="a list of failed, cancelled, expired or held"
    )


class _Selection(Model):
    """The items of a batch that an order is about: those that fit all of the given lists."""

    kinds: list[ErrorKind] | None = Field(
        None, min_length=1, max_length=64, description="a list of kinds of errors, such as moderation_input"
    )
    items: list[Ident] | None = Field(
        None, min_length=1, max_length=ITEMS_MAX, description=f"a list of 1 to {ITEMS_MAX} items' ids"
    )


class CancelSelection(_Selection):
    """Items of a batch to cancel; without any list, all that have not ended."""

    states: list[CancelStatus] | None = Field(
        None, min_length=1, description="a list of queued, throttled, retry_wait, running or held"
    )


class RetrySelection(_Selection):
    """Items of a batch to try again; without `states`, those that failed."""

    states: list[RetryStatus] | None = Field(
        None, min_length=1, description="a list of failed, cancelled, expired or held"
    )


class PauseOrder(Model):
    """A pause of a batch."""

    reason: ShortText = Field("", description="a text of at most 256 characters")
