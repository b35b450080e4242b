"""The interface of a provider, and the small frozen values that cross it.

A request wants one picture. A provider replies at once (`mode="sync"`) or with a receipt to poll (`mode="task"`).
Providers raise nothing but `providers.errors.ProviderError`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Protocol, runtime_checkable

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class InputImage:
    """A picture to work from. It was fetched and checked before; `role` is its use."""

    data: bytes = field(repr=False)
    content_type: str
    role: str = "reference"  # "image", "mask" or "reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for one picture. `request_id` stays the same when a job is delivered again."""

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
class CallHooks:
    """Functions that a caller attaches to one HTTP request.

    `before_send` is awaited on an open connection, just before the first byte leaves. Its argument is the time (s) that
    connecting took, or None for a connection that was open before. If it raises, nothing is sent.
    `after_send` is called when the last byte is written. It must not wait: the reply may arrive at any moment.
    """

    before_send: Callable[[float | None], Awaitable[None]] | None = None
    after_send: Callable[[], None] | None = None


NO_HOOKS = CallHooks()


@dataclass(frozen=True, slots=True)
class Submitted:
    """The receipt of an accepted task: written down at once, then polled by any owner of the job.

    The caller fills in `submitted_at` (with a zone). `headers`: see Generated; they are not written down.
    """

    task_id: str
    poll_url: str | None = None
    provider_request_id: str | None = None
    submitted_at: datetime | None = None
    headers: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

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
    """A task that is not finished. `status` is the provider's own word, for people to read."""

    status: str
    retry_after_s: float | None = None  # the pause before the next poll that the provider wishes


@dataclass(frozen=True, slots=True)
class Picture:
    """One finished picture: its bytes, or an address to fetch them from soon (addresses expire)."""

    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)  # may carry a signature
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished call.

    `cost` is the provider's own figure, or follows from its price list and `usage`. `headers` are the reply's headers
    about rate limits, with its date; no others.
    """

    pictures: tuple[Picture, ...]
    revised_prompt: str | None = None
    provider_request_id: str | None = None
    cost: Decimal | None = None
    currency: str | None = None  # ISO 4217
    usage: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PollPlan:
    """The pauses after refused polls of a task: `first_s`, then each `growth` times as long, up to `longest_s`.

    Until a poll is refused, the durations of earlier tasks decide when the next one is due.

    Raises ValueError for a plan without a pause, or with pauses that shrink.
    """

    first_s: float = 2.0
    growth: float = 1.5
    longest_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.longest_s or self.growth < 1:
            raise ValueError("A poll plan needs 0 < first_s <= longest_s and a growth of 1 or more.")

    def waits_s(self, draw: Callable[[], float]) -> Iterator[float]:
        """The waits before each poll, without end. `draw` (0..1) moves each by up to a tenth.

        Otherwise tasks that were submitted together would be polled together until they end.
        """
        wait_s = self.first_s
        while True:
            yield wait_s * (0.9 + 0.2 * draw())
            wait_s = min(self.longest_s, wait_s * self.growth)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The limits of one model, and how its tasks are polled."""

    mode: Literal["sync", "task"]
    max_prompt_chars: int
    max_inputs: int
    seed_range: tuple[int, int] | None  # inclusive; None: the model has no seed
    url_ttl_s: float | None  # the lifetime of a picture's address, where known
    poll: PollPlan = PollPlan()
    currency: str | None = None  # ISO 4217, of the costs that calls report; None: they report none


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """The result of a free test of a credential. `good` is None if the test could not decide.

    `models` are those that the provider lists, if the test has shown them.
    """

    good: bool | None
    says: str  # a sentence for the operator, without secrets
    models: frozenset[str] = frozenset()


class Provider(Protocol):
    """One provider account: a base address together with its credential. Safe for concurrent use."""

    name: str

    def capabilities(self, model: str) -> Capabilities:
        """The limits of `model`. Uses no network."""
        ...

    def check(self, request: Request) -> None:
        """Refuse, free of charge, a request that the provider would refuse.

        Raises ProviderError of kind `invalid_request` (or `unsupported`); its `field` names the job's field.
        """
        ...

    async def submit(
        self, request: Request, *, timeout_s: float, hooks: CallHooks = NO_HOOKS
    ) -> Submitted | Generated:
        """Order the picture with exactly one HTTP request, which is never repeated here."""
        ...

    async def poll(self, submitted: Submitted, *, hooks: CallHooks = NO_HOOKS) -> Pending | Generated:
        """The state of a task. Polling a finished one again gives fresh addresses for its pictures.

        A failed task raises its reason, marked with `ProviderError.of_accepted_call`. Without that mark a reason that
        could concern the account (`rate_limited`, `auth`, ...) counts as one of the poll alone. A poll that is refused
        for the rate of requests, or for their number at a time, raises `rate_limited` or `concurrency_limited`: callers
        then pause the polls of the account. Any other refused or lost poll raises `poll_error`. Neither says anything
        about the task, which must not be bought twice. `task_lost` is for an API that itself reports that it knows no
        such task; callers believe it after a few replies in a row.
        """
        ...

    async def cancel(self, submitted: Submitted) -> bool:
        """True if the provider promised not to run the task; False if it cannot or will not."""
        ...

    async def fetch(self, picture: Picture) -> bytes:
        """The picture's bytes. An address is downloaded without credentials and by the safe rules."""
        ...

    async def aclose(self) -> None:
        """Close connections; may be called twice."""
        ...


@runtime_checkable
class ChecksCredential(Protocol):
    """An extra of providers that have a free endpoint."""

    async def check_credential(self, *, timeout_s: float) -> CredentialCheck:
        """Test the credential. Spends nothing and raises nothing."""
        ...
