"""A job as producers send it, and its two fingerprints.

One class an object; every limit stands beside its field, with the words that schema and refusals use for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from pixmill.contract.event_types import CallbackEvent
from pixmill.contract.fields import (
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

MOST_PICTURES = 10  # of one job
MOST_PROMPT = 32000
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=MOST_PROMPT)]
PROMPT_TEXT = "a text of 1 to 32000 characters"


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
    """How the image is stored. There is no path: the daemon chooses the key."""

    format: Literal["png", "jpeg", "webp"] | None = Field(
        None, description="png, jpeg or webp; without it the picture is kept as it was delivered"
    )
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

    A field that was not given is not in `model_fields_set`: so an item's field overrides a default.
    """

    route: Name = Field("default", description="the name of a configured route")
    prompt: Prompt | None = Field(None, description=PROMPT_TEXT)
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
    n: int = Field(1, ge=1, le=MOST_PICTURES, description="a whole number from 1 to 10")
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
    fallback: bool = Field(True, description="true or false")
    cache: Literal["off", "use", "refresh"] = Field("off", description="off, use or refresh")
    callback: Callback | None = Field(None, description="an object with url, events and secret")
    metadata: Metadata | None = Field(None, description=METADATA_TEXT)

    def given(self) -> dict[str, Any]:
        """The fields that were given, as they are (nested models stay models)."""
        fields = {
            name: getattr(self, name) for name in self.model_fields_set if name in type(self).model_fields
        }
        return {**fields, **(self.model_extra or {})}


class Job(JobDefaults):
    """One request for `n` pictures. Its identity is (tenant, id)."""

    id: Ident = Field(description=IDENT_TEXT)
    tenant: Ident = Field("default", description=IDENT_TEXT)
    prompt: Prompt = Field(description=PROMPT_TEXT)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        check_fit(self.__dict__)
        return self

    def to_spec(self) -> bytes:
        """Canonical JSON of the given fields (sorted keys, times in UTC), as it is stored with the item."""
        return orjson.dumps(self.model_dump(exclude_unset=True), option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_spec(cls, spec: bytes) -> Self:
        """The job of a stored spec. Fields that only a newer replica knows are kept, not refused."""
        return cls.model_validate(orjson.loads(spec), context=TRUSTED)

    def item_ids(self) -> list[str]:
        """The ids of its work items: the job's own, or `{id}.{k}` for each picture k of several, from 0."""
        return [self.id] if self.n == 1 else [f"{self.id}.{k}" for k in range(self.n)]


# The fields that may be right alone and wrong together.
FIT_TOGETHER = ("not_before", "expires_at", "deadline", "seed", "n")


def check_fit(given: Mapping[str, Any], path: tuple[str | int, ...] = ()) -> None:
    """Refuse times that no job can meet, and a seed that is too large for `n` pictures."""
    not_before, seed, n = given.get("not_before"), given.get("seed"), given.get("n", 1)
    for name in ("expires_at", "deadline"):
        if not_before and (limit := given.get(name)) and limit <= not_before:
            raise problem("`{field}` must be later than `not_before`.", *path, name)
    if seed is not None and seed + n - 1 > SEED_MAX:
        raise problem(
            f"`{{field}}` is too large for n = {n}: picture k gets seed + k, and none may exceed 2^63 - 1.",
            *path,
            "seed",
        )


def fingerprint_content(job: Job) -> str:
    """128 bits of the sha256 of the job's content, for the rule "same id, same content": each record keeps them.

    An explicit default, the order of the fields and the zone of a time make no difference.
    """
    return _sha256(job.model_dump(exclude_defaults=True))[:32]


def pixel_fingerprint(job: Job, provider: str, model: str, input_hashes: Sequence[str], k: int = 0) -> str:
    """sha256 of everything that decides the pixels of picture `k` of a job.

    That is provider, model, prompts, seed, size, params, inputs (`input_hashes` are the sha256 of their
    bytes, in their order) and the stored format. Ids, priority, times and metadata do not count.
    Without a seed every picture of a job is another draw, so `k` itself is hashed.
    """
    inputs = job.inputs or []
    if len(inputs) != len(input_hashes):
        raise ValueError(f"{len(input_hashes)} hashes were given for {len(inputs)} inputs")
    seed = {"k": k} if job.seed is None else {"seed": job.seed + k}
    return _sha256(
        {
            "v": 1,
            "provider": provider,
            "model": model,
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt or "",
            **seed,
            "size": job.size,
            "params": job.params or {},
            "inputs": [[entry.role, digest] for entry, digest in zip(inputs, input_hashes, strict=True)],
            "format": job.output.format,
            "quality": job.output.quality,
        }
    )


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
