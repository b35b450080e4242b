"""What every provider is: one interface, and the small frozen values that cross it.

A request asks for one picture. A provider answers at once (`mode="sync"`) or with a receipt that is polled
(`mode="task"`). Providers raise nothing but `providers.errors.ProviderError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol, runtime_checkable

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class InputImage:
    """A picture to work from: its bytes, already fetched and checked, and what it is for."""

    data: bytes = field(repr=False)
    content_type: str
    role: str = "reference"  # "image", "mask" or "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One picture, wanted. `request_id` stays the same when a job is delivered again."""

    request_id: str
    model: str
    prompt: str
    negative_prompt: str | None = None
    size: str | None = None  # "1024x1024" or "16:9"; the provider maps it to a size that it accepts
    seed: int | None = None  # 0 is a seed like any other
    params: Mapping[str, Scalar] = field(default_factory=dict)
    inputs: tuple[InputImage, ...] = ()
    output_format: Literal["png", "jpeg", "webp"] | None = None
    quality: int | None = None  # 1..100, of the encoded file


@dataclass(frozen=True, slots=True)
class Submitted:
    """The receipt of an accepted task: written down at once, polled by whoever owns the job then.

    `submitted_at` (with a zone) is the writer's to fill in; no provider needs to.
    """

    task_id: str
    poll_url: str | None = None
    provider_request_id: str | None = None
    submitted_at: datetime | None = None

    def to_dict(self) -> dict[str, str]:
        """Plain JSON; fields without a value are left out."""
        at = self.submitted_at
        fields = {
            "task_id": self.task_id,
            "poll_url": self.poll_url,
            "provider_request_id": self.provider_request_id,
            "submitted_at": None if at is None else at.isoformat(timespec="seconds"),
        }
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Submitted:
        """The inverse of `to_dict`; unknown fields are ignored, as a newer replica may have written them."""
        return cls(
            task_id=str(data["task_id"]),
            poll_url=data.get("poll_url"),
            provider_request_id=data.get("provider_request_id"),
            submitted_at=datetime.fromisoformat(data["submitted_at"]) if "submitted_at" in data else None,
        )


@dataclass(frozen=True, slots=True)
class Pending:
    """The task is not finished; `status` is the provider's own word, for people to read."""

    status: str
    retry_after_s: float | None = None  # how long the provider asked to leave it alone


@dataclass(frozen=True, slots=True)
class Picture:
    """One finished picture: its bytes, or an address to fetch them from soon (addresses expire)."""

    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)  # may carry a signature
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished call. `cost` is what the provider says or what its price list and `usage` give."""

    pictures: tuple[Picture, ...]
    revised_prompt: str | None = None
    provider_request_id: str | None = None
    cost: Decimal | None = None
    currency: str | None = None  # ISO 4217
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PollPlan:
    """How often to ask how a task stands: first after `first_s`, then `growth` times as long, up to `longest_s`.

    Raises ValueError for a plan that would poll without a pause, or ever faster.
    """

    first_s: float = 2.0
    growth: float = 1.5
    longest_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.longest_s or self.growth < 1:
            raise ValueError("A poll plan needs 0 < first_s <= longest_s and a growth of 1 or more.")

    def waits_s(self, draw: Callable[[], float]) -> Iterator[float]:
        """The waits before each poll, without end; `draw` (0..1) moves each by up to a tenth.

        Without that, tasks that were submitted together would be polled together for as long as they run.
        """
        wait_s = self.first_s
        while True:
            yield wait_s * (0.9 + 0.2 * draw())
            wait_s = min(self.longest_s, wait_s * self.growth)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model of this provider can take, and how its tasks are polled."""

    mode: Literal["sync", "task"]
    max_prompt_chars: int
    max_inputs: int
    seed_range: tuple[int, int] | None  # inclusive; None: the model has no seed
    url_ttl_s: float | None  # how long a picture's address lives, where that is known
    poll: PollPlan = PollPlan()
    currency: str | None = None  # ISO 4217, of the costs that calls report; None: they report none


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """What a question that costs nothing has shown of a credential. `good` is None where it cannot be told."""

    good: bool | None
    says: str  # a sentence for the operator, without secrets


class Provider(Protocol):
    """One provider account: a base address together with its credential. Safe for concurrent use."""

    name: str

    def capabilities(self, model: str) -> Capabilities:
        """What `model` can take; never asks the network."""
        ...

    def check(self, request: Request) -> None:
        """Refuse, free of charge, what the provider would refuse.

        Raises ProviderError of kind `invalid_request` (or `unsupported`) whose `field` names the job's field.
        """
        ...

    async def submit(self, request: Request, *, timeout_s: float) -> Submitted | Generated:
        """Ask for the picture: exactly one HTTP request is sent, and it is never sent again from here."""
        ...

    async def poll(self, submitted: Submitted) -> Pending | Generated:
        """How the task stands; polling a finished one again gives fresh addresses for its pictures.

        A failed task raises what became of it, with `ProviderError.let_in`: without, whatever can be said of an
        account (`rate_limited`, `auth`, ...) is taken for the poll's. A poll that was refused or had no answer
        raises `poll_error`, whatever the reason: it says nothing of the task, which must not be bought a second time.
        `task_lost` is for an API that says itself that it knows no such task; callers believe it when it has said so
        a few times.
        """
        ...

    async def cancel(self, submitted: Submitted) -> bool:
        """True if the provider promised not to run the task; False if it cannot or will not."""
        ...

    async def fetch(self, picture: Picture) -> bytes:
        """The picture's bytes; an address is downloaded without credentials and with the safe rules."""
        ...

    async def aclose(self) -> None:
        """Close connections; may be called twice."""
        ...


@runtime_checkable
class ChecksCredential(Protocol):
    """What a provider offers besides, where it has an endpoint that is free to ask."""

    async def check_credential(self, *, timeout_s: float) -> CredentialCheck:
        """Whether the credential is accepted. Spends nothing, and raises nothing."""
        ...
