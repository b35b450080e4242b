"""The taxonomy of failures: the kind, whom it concerns, the next step, and the charge.

`RULES` alone decides the treatment of each kind; providers choose the kind and little else.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pixmill.redaction import READ_LIMIT, redact
from pixmill.text import shortened, visible
from providers.retry_after import THROTTLE_LIMIT_S
from providers.secrets import without_secret


class ErrorKind(StrEnum):
    """The kind of a failure."""

    AUTH = "auth"
    PERMISSION = "permission"
    BILLING_EXHAUSTED = "billing_exhausted"
    QUOTA_EXHAUSTED = "quota_exhausted"
    RATE_LIMITED = "rate_limited"
    CONCURRENCY_LIMITED = "concurrency_limited"
    BUDGET_IN_FLIGHT = "budget_in_flight"
    OVERLOADED = "overloaded"
    PROVIDER_FAULT = "provider_fault"
    PROVIDER_TIMEOUT = "provider_timeout"
    NETWORK_UNSENT = "network_unsent"
    AMBIGUOUS_SUBMIT = "ambiguous_submit"
    POLL_ERROR = "poll_error"
    TASK_LOST = "task_lost"
    RESULT_DOWNLOAD = "result_download"
    RESULT_EXPIRED = "result_expired"
    MODERATION_INPUT = "moderation_input"
    MODERATION_OUTPUT = "moderation_output"
    NO_IMAGE = "no_image"
    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED = "unsupported"
    INPUT_FETCH = "input_fetch"
    BAD_RESPONSE = "bad_response"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    WORKER_SHUTDOWN = "worker_shutdown"
    STORAGE = "storage"
    UNKNOWN = "unknown"


class Scope(StrEnum):
    """Whom or what a failure concerns."""

    JOB = "job"
    KEY = "key"
    MODEL = "model"
    PROVIDER = "provider"
    MACHINE = "machine"  # the machine that made the call; the account serves all others


class Charged(StrEnum):
    """Whether the provider takes money for the failed call."""

    NO = "no"
    MAYBE = "maybe"
    YES = "yes"


class Retry(StrEnum):
    """The next step after a failure."""

    NEVER = "never"  # the same request would fail the same way
    UNSENT = (
        "unsent"  # nothing was sent: the job keeps its attempts, and waits until the provider can be reached
    )
    BACKOFF = "backoff"  # submit again later; counts as an attempt
    # Wait with the account. Nothing was done, so the job keeps its attempts, unless the call was accepted.
    AFTER_THROTTLE = "after_throttle"
    UNKNOWN_OUTCOME = "unknown_outcome"  # the call may be done and charged; the job's policy decides
    PAUSE_QUOTA = "pause_quota"  # the account can serve no job; this one returns unharmed
    POLL_AGAIN = "poll_again"  # the receipt is still good: poll or fetch again, never submit


@dataclass(frozen=True, slots=True)
class Rule:
    """The treatment of a kind. `max_retries` caps its repetitions for a job; None: only the job's own limits."""

    retry: Retry
    scope: Scope
    charged: Charged
    max_retries: int | None = None


RULES: dict[ErrorKind, Rule] = {
    ErrorKind.AUTH: Rule(Retry.PAUSE_QUOTA, Scope.KEY, Charged.NO),
    ErrorKind.PERMISSION: Rule(Retry.NEVER, Scope.MODEL, Charged.NO),
    ErrorKind.BILLING_EXHAUSTED: Rule(Retry.PAUSE_QUOTA, Scope.KEY, Charged.NO),
    ErrorKind.QUOTA_EXHAUSTED: Rule(Retry.PAUSE_QUOTA, Scope.KEY, Charged.NO),
    ErrorKind.RATE_LIMITED: Rule(Retry.AFTER_THROTTLE, Scope.KEY, Charged.NO),
    ErrorKind.CONCURRENCY_LIMITED: Rule(Retry.AFTER_THROTTLE, Scope.KEY, Charged.NO),
    ErrorKind.BUDGET_IN_FLIGHT: Rule(Retry.AFTER_THROTTLE, Scope.KEY, Charged.NO),
    # Refused at the door: if this cost attempts, ten busy minutes would fail a whole backlog.
    ErrorKind.OVERLOADED: Rule(Retry.AFTER_THROTTLE, Scope.PROVIDER, Charged.NO),
    ErrorKind.PROVIDER_FAULT: Rule(Retry.BACKOFF, Scope.PROVIDER, Charged.MAYBE, max_retries=3),
    ErrorKind.PROVIDER_TIMEOUT: Rule(Retry.BACKOFF, Scope.PROVIDER, Charged.MAYBE, max_retries=2),
    ErrorKind.NETWORK_UNSENT: Rule(Retry.UNSENT, Scope.PROVIDER, Charged.NO),
    ErrorKind.AMBIGUOUS_SUBMIT: Rule(Retry.UNKNOWN_OUTCOME, Scope.JOB, Charged.MAYBE),
    ErrorKind.POLL_ERROR: Rule(Retry.POLL_AGAIN, Scope.PROVIDER, Charged.MAYBE),
    ErrorKind.TASK_LOST: Rule(Retry.UNKNOWN_OUTCOME, Scope.JOB, Charged.MAYBE),
    # The picture exists and is paid for; submitting again would pay twice.
    ErrorKind.RESULT_DOWNLOAD: Rule(Retry.POLL_AGAIN, Scope.JOB, Charged.YES, max_retries=5),
    ErrorKind.RESULT_EXPIRED: Rule(Retry.UNKNOWN_OUTCOME, Scope.JOB, Charged.YES),
    ErrorKind.MODERATION_INPUT: Rule(Retry.NEVER, Scope.JOB, Charged.NO),
    ErrorKind.MODERATION_OUTPUT: Rule(Retry.NEVER, Scope.JOB, Charged.MAYBE),
    ErrorKind.NO_IMAGE: Rule(Retry.BACKOFF, Scope.JOB, Charged.MAYBE, max_retries=1),
    ErrorKind.INVALID_REQUEST: Rule(Retry.NEVER, Scope.JOB, Charged.NO),
    ErrorKind.UNSUPPORTED: Rule(Retry.NEVER, Scope.MODEL, Charged.NO),
    ErrorKind.INPUT_FETCH: Rule(Retry.BACKOFF, Scope.JOB, Charged.NO, max_retries=1),
    # The call was accepted, so an unreadable answer may have been paid for, like a lost one.
    ErrorKind.BAD_RESPONSE: Rule(Retry.UNKNOWN_OUTCOME, Scope.PROVIDER, Charged.MAYBE),
    ErrorKind.CANCELLED: Rule(Retry.NEVER, Scope.JOB, Charged.MAYBE),
    ErrorKind.DEADLINE: Rule(Retry.NEVER, Scope.JOB, Charged.MAYBE),
    ErrorKind.WORKER_SHUTDOWN: Rule(Retry.UNKNOWN_OUTCOME, Scope.JOB, Charged.MAYBE),
    # Our failure, not the provider's: the picture was made, and our object store did not take it.
    ErrorKind.STORAGE: Rule(Retry.POLL_AGAIN, Scope.JOB, Charged.YES),
    ErrorKind.UNKNOWN: Rule(Retry.BACKOFF, Scope.PROVIDER, Charged.MAYBE, max_retries=1),
}

MESSAGE_LIMIT = 600  # characters; at four bytes each, and with its other fields, a record stays under 2 KB
_CODE_LIMIT = 100  # characters of a provider's code or request id


class ProviderError(Exception):
    """A failed provider call, classified. `message` is safe to show: no secrets, URL queries, control characters.

    `retry_after_s` is the wait that the provider wishes. Unless an allowance is used up, it is at most 15 minutes
    (THROTTLE_LIMIT_S): otherwise one wrong header could stop a fleet for days.
    `cost` is the provider's own figure for the failed call, in `currency` (ISO 4217); None if it gives none.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        field: str | None = None,
        provider_code: str | None = None,
        http_status: int | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        scope: Scope | None = None,
        retry: Retry | None = None,
        charged: Charged | None = None,
    ) -> None:
        rule = RULES[kind]
        self.kind = kind
        # The original words, for `without`: if a pattern or the end of a text left only a part of a key, that part
        # could not be found in what is shown. They are never shown.
        given = {"message": message, "provider_code": provider_code, "request_id": request_id}
        self._originals = {
            name: shortened(text, READ_LIMIT) for name, text in given.items() if text is not None
        }
        self.message = _shown(self._originals["message"], MESSAGE_LIMIT)
        self.field = None if field is None else _shown(field, 200)
        self.provider_code = None if provider_code is None else _shown(provider_code, _CODE_LIMIT)
        self.http_status = http_status
        self.retry_after_s = retry_after_s
        if retry_after_s is not None and kind is not ErrorKind.QUOTA_EXHAUSTED:
            self.retry_after_s = min(retry_after_s, THROTTLE_LIMIT_S)
        self.request_id = None if request_id is None else _shown(request_id, _CODE_LIMIT)
        self.scope = scope or rule.scope
        self.retry = retry or rule.retry
        self.charged = charged or rule.charged
        self.cost: Decimal | None = None
        self.currency: str | None = None
        self.call_accepted = False
        super().__init__(self.message)

    def billed(self, cost: Decimal | None, currency: str) -> ProviderError:
        """This error with the provider's own figure for its cost, which decides whether it was charged."""
        if cost is not None:
            self.cost, self.currency = cost, currency
            self.charged = Charged.YES if cost else Charged.NO
        return self

    def of_accepted_call(self) -> ProviderError:
        """This error of a call that was accepted before it failed: unlike one refused at the door, it may be charged.

        Such a throttle costs the job an attempt. Otherwise a provider that bills and then refuses would be paid without
        end.
        """
        self.call_accepted = True
        if self.charged is Charged.NO:
            self.charged = Charged.MAYBE
        return self

    @property
    def max_retries(self) -> int | None:
        """The cap on repetitions of this kind for one job; None: only the job's own limits."""
        return RULES[self.kind].max_retries

    @property
    def retryable(self) -> bool:
        """Whether waiting or trying again may help."""
        return self.retry is not Retry.NEVER

    def without(self, secret: str) -> ProviderError:
        """This error without `secret` in any spelling: providers quote keys in forms that no pattern foresees."""
        for name, limit in (
            ("message", MESSAGE_LIMIT),
            ("provider_code", _CODE_LIMIT),
            ("request_id", _CODE_LIMIT),
        ):
            # A request id may have been set later.
            original = self._originals.get(name, getattr(self, name))
            if original is not None:
                self._originals[name] = _without_beginning(without_secret(original, secret), secret)
                setattr(self, name, _shown(self._originals[name], limit))
        self.args = (self.message,)
        return self

    def to_dict(self) -> dict[str, Any]:
        """For records and events: plain JSON of at most 2 KB, without secrets; empty fields are left out."""
        fields: dict[str, Any] = {
            "kind": self.kind.value,
            "message": _within_bytes(self.message, 1200),
            "field": self.field,
            "provider_code": self.provider_code,
            "http_status": self.http_status,
            "retry_after_s": self.retry_after_s,
            "request_id": self.request_id,
            "scope": self.scope.value,
            "charged": self.charged.value,
            "retryable": self.retryable,
            "cost": None if self.cost is None else {"amount": f"{self.cost:f}", "currency": self.currency},
        }
        return {name: value for name, value in fields.items() if value is not None}

    def __repr__(self) -> str:
        return f"ProviderError({self.kind.value}: {self.message})"


def _shown(text: str, limit: int) -> str:
    """One line of at most `limit` characters, without secrets and without anything that a terminal obeys."""
    return shortened(visible(" ".join(redact(text).splitlines())), limit)


def _without_beginning(text: str, secret: str) -> str:
    """`text` without the beginning of a secret at its end, if it was shortened there."""
    if not text.endswith("…"):
        return text
    for length in range(min(len(secret), len(text)) - 1, 3, -1):
        if text.endswith(f"{secret[:length]}…"):
            return f"{text[: -length - 1]}***"
    return text


def _within_bytes(text: str, limit: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "…"
