"""What producers send: jobs, batches, cancels and retries.

One class an object; every limit stands beside its field, with the words that schema and refusals use for it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import Field, PrivateAttr, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from daemon.contract.events import CallbackEvent
from daemon.contract.fields import (
    IDENT_TEXT,
    METADATA_TEXT,
    SEED_MAX,
    SIZE_TEXT,
    TIME_TEXT,
    TRUSTED,
    URL_TEXT,
    Ident,
    Metadata,
    Model,
    Name,
    ParamName,
    Priority,
    Scalar,
    Size,
    Time,
    Url,
    problem,
)
from daemon.contract.rejection import clipped

ITEMS_MAX = 1000
SINGLES = (
    "single"  # the folder of jobs without a batch: a batch of this name would share their pictures' keys
)


class Input(Model):
    """A picture to work from: a `url` (fetched and checked by the daemon) or an `object` (a key)."""

    url: Url | None = Field(None, description=URL_TEXT)
    object: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = Field(
        None, description="an object key of 1 to 1024 characters"
    )
    role: Literal["image", "mask", "reference"] = Field("image", description="image, mask or reference")
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="64 lower-case hex digits"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.url is None) == (self.object is None):
            raise problem("`{field}` needs exactly one of `url` and `object`.")
        return self


class Output(Model):
    """How the image is stored. There is no path: keys are ours."""

    format: Literal["png", "jpeg", "webp"] = Field("png", description="png, jpeg or webp")
    quality: int | None = Field(None, ge=1, le=100, description="a whole number from 1 to 100")
    thumbnail: bool = Field(True, description="true or false")


class Callback(Model):
    """A signed webhook. `secret` is the name of a configured secret (`default` if not given), never the secret."""

    url: Url = Field(description=URL_TEXT)
    events: list[CallbackEvent] | None = Field(
        None,
        min_length=1,
        max_length=32,
        description="a list of event types such as job.succeeded or batch.finished; without it, those of the end",
    )
    secret: Name | None = Field(
        None, description="the name of a configured secret: 1 to 64 letters, digits or `.` `_` `-`"
    )

    @field_validator("secret", mode="before")
    @classmethod
    def _only_a_name(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("whsec_"):
            raise PydanticCustomError("secret_value", "a secret")
        return value


class JobDefaults(Model):
    """The fields that a job, a batch's defaults and a batch's items share.

    What was not given is not in `model_fields_set`: that is how an item's field overrides a default.
    """

    route: Name = Field("default", description="the name of a configured route")
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=32000)] | None = Field(
        None, description="a text of 1 to 32000 characters"
    )
    negative_prompt: Annotated[str, StringConstraints(max_length=32000)] | None = Field(
        None, description="a text of at most 32000 characters"
    )
    seed: int | None = Field(
        None, ge=0, le=SEED_MAX, description="a whole number from 0 to 2^63 - 1; 0 is a seed"
    )
    params: dict[ParamName, Scalar] | None = Field(
        None,
        max_length=32,
        description="at most 32 texts, numbers or booleans for the provider, under names of up to 64",
    )
    size: Size | None = Field(None, description=SIZE_TEXT)
    n: int = Field(1, ge=1, le=10, description="a whole number from 1 to 10")
    inputs: list[Input] | None = Field(None, max_length=16, description="a list of at most 16 pictures")
    output: Output = Field(Output(), description="an object with format, quality and thumbnail")
    priority: Priority = Field("normal", description="high, normal or low")
    not_before: Time | None = Field(None, description=TIME_TEXT)
    expires_at: Time | None = Field(None, description=TIME_TEXT)
    deadline: Time | None = Field(None, description=TIME_TEXT)
    max_attempts: int = Field(5, ge=1, le=20, description="a whole number from 1 to 20")
    on_unknown_outcome: Literal["retry_once", "hold", "fail"] = Field(
        "retry_once", description="retry_once, hold or fail"
    )
    cache: Literal["off", "use", "refresh"] = Field("off", description="off, use or refresh")
    callback: Callback | None = Field(None, description="an object with url, events and secret")
    metadata: Metadata | None = Field(None, description=METADATA_TEXT)

    def given(self) -> dict[str, Any]:
        """The fields that were given, as they are (nested models stay models)."""
        fields = {name: getattr(self, name) for name in self.model_fields_set if name in self.known_fields}
        return {**fields, **(self.model_extra or {})}


class Job(JobDefaults):
    """One request for `n` pictures. Its identity is (tenant, id)."""

    id: Ident = Field(description=IDENT_TEXT)
    tenant: Ident = Field("default", description=IDENT_TEXT)
    prompt: Annotated[str, StringConstraints(min_length=1, max_length=32000)] = Field(
        description="a text of 1 to 32000 characters"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.not_before or self.deadline:
            check_times(self.not_before, self.expires_at, self.deadline)
        if self.n > 1:
            check_seeds(self.seed, self.n)
        return self

    def to_spec(self) -> bytes:
        """Canonical JSON of what was given (sorted keys, times in UTC): what is stored with the item."""
        return orjson.dumps(self.model_dump(exclude_unset=True), option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_spec(cls, spec: bytes) -> Self:
        """The job of a stored spec. Fields that only a newer replica knows are kept, not refused."""
        return cls.model_validate(orjson.loads(spec), context=TRUSTED)

    def item_ids(self) -> list[str]:
        """The ids of its work items: the job's own, or `{id}.{k}` for each picture k of several, from 0."""
        return [self.id] if self.n == 1 else [f"{self.id}.{k}" for k in range(self.n)]


class BatchItem(JobDefaults):
    """One job of a batch: its own id, and what differs from the batch's defaults."""

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
        """What was dropped or changed on the way in, a sentence each."""
        return self._warnings

    def with_warnings(self, warnings: list[str]) -> Self:
        """The same batch, carrying these warnings."""
        batch = self.model_copy()
        batch._warnings = tuple(warnings)  # noqa: SLF001 - its own
        return batch

    def jobs(self) -> list[Job]:
        """Its items with defaults and tenant filled in, field by field; nothing is merged inside a field."""
        shared = self.defaults.given()
        return [_merged(shared, item, self.tenant) for item in self.items]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.id == SINGLES:
            raise problem(
                '`{field}`: "single" is where jobs without a batch are kept; choose another id.', "id"
            )
        if self.part > self.parts:
            raise problem(f"`{{field}}` is {self.part}, but there are only {self.parts} `parts`.", "part")
        shared = self.defaults.given()
        seen: dict[str, int] = {}
        for index, item in enumerate(self.items):
            merged = {**shared, **item.given()} if shared else item.given()
            self._check_item(index, merged)
            self._check_ids(index, item.id, merged.get("n", 1), seen)
        return self

    def _check_item(self, index: int, merged: dict[str, Any]) -> None:
        if merged.get("prompt") is None:
            raise problem("`{field}` is missing: give it here or in `defaults`.", "items", index, "prompt")
        times = merged.get("not_before"), merged.get("expires_at"), merged.get("deadline")
        if any(times):
            check_times(*times, path=("items", index))
        check_seeds(merged.get("seed"), merged.get("n", 1), path=("items", index))

    @staticmethod
    def _check_ids(index: int, ident: str, n: int, seen: dict[str, int]) -> None:
        # A job of several pictures also takes the ids of its pictures, so `a` with n = 2 collides with `a.1`.
        for taken in (ident, *(f"{ident}.{k}" for k in range(n) if n > 1)):
            if (first := seen.setdefault(taken, index)) != index:
                raise problem(
                    f'`{{field}}`: the id "{clipped(taken)}" is already taken by item {first}; '
                    "ids must be unique within a batch.",
                    "items", index, "id",
                )  # fmt: skip


class _Target(Model):
    """Which work is meant: a whole batch or one job."""

    batch: Ident | None = Field(None, description=IDENT_TEXT)
    job: Ident | None = Field(None, description=IDENT_TEXT)
    tenant: Ident = Field("default", description=IDENT_TEXT)

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.batch is None and self.job is None:
            raise problem("Give `batch` or `job`: the id of what is meant.")
        return self


CancelStatus = Literal["queued", "throttled", "retry_wait", "running", "held"]
RetryStatus = Literal["failed", "cancelled", "expired", "held"]


class Cancel(_Target):
    """Stop what has not ended; with both ids, one item of a batch. `statuses` narrows it to these states."""

    statuses: list[CancelStatus] | None = Field(
        None, min_length=1, description="a list of queued, throttled, retry_wait, running or held"
    )


class RetryRequest(_Target):
    """Run again what did not succeed. Without `statuses`: what failed."""

    statuses: list[RetryStatus] | None = Field(
        None, min_length=1, description="a list of failed, cancelled, expired or held"
    )


def check_times(not_before: Any, expires_at: Any, deadline: Any, path: tuple[str | int, ...] = ()) -> None:
    """Refuse times that no job could meet."""
    for name, limit in (("expires_at", expires_at), ("deadline", deadline)):
        if not_before and limit and limit <= not_before:
            raise problem("`{field}` must be later than `not_before`.", *path, name)


def check_seeds(seed: int | None, n: int, path: tuple[str | int, ...] = ()) -> None:
    """Refuse a seed that leaves no room for those of the pictures after the first."""
    if seed is not None and seed + n - 1 > SEED_MAX:
        raise problem(
            f"`{{field}}` is too large for n = {n}: picture k gets seed + k, and none may exceed 2^63 - 1.",
            *path,
            "seed",
        )


def _merged(shared: dict[str, Any], item: BatchItem, tenant: str) -> Job:
    # Validating again costs 5 µs a job, a third of what `model_construct` takes.
    return Job.model_validate({**shared, **item.given(), "tenant": tenant}, context=TRUSTED)
