"""The limiter's replies as types: a grant with its permit, a denial, a penalty, and the state of a quota."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from limiter.quota.limits import IN_FLIGHT

PPM: Final = 1_000_000  # a configured rate in the unit of learned rates
PAUSED: Final = "paused"
COOLDOWN: Final = "cooldown"


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to make one provider call; its owner can renew, release or give it back.

    `quotas` are names, `costs` the units charged to each of them. `leased` are the quotas in which it holds a lease,
    `weights` the weights of these leases. `grant_id` distinguishes two grants of one `request_id`, so that undoing
    one never touches the other. `granted_us` and `slot_us` are times of the limiter's clock; do not compare them with
    another clock. It holds no secret.
    """

    request_id: str
    holder: str
    quotas: tuple[str, ...]
    costs: Mapping[str, int]
    leased: tuple[str, ...]
    grant_id: str
    weights: tuple[int, ...] = ()
    granted_us: int = 0
    slot_us: int = 0
    # The units left by the grant of each limit that learns, by quota and `unit:period_us`. `to_json` drops it.
    left: Mapping[tuple[str, str], int] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.leased):
            object.__setattr__(self, "weights", (1,) * len(self.leased))

    @property
    def owner(self) -> str:
        """The request and its holder, as operators see them in a lease."""
        return f"{self.request_id} {self.holder}"

    @property
    def leases(self) -> Iterator[tuple[str, int]]:
        """Each quota in which it holds a lease, with the lease's weight."""
        return zip(self.leased, self.weights, strict=True)

    def to_json(self) -> str:
        """A short string for a job's record, from which `from_json` of any replica makes the same permit."""
        call = (self.request_id, self.holder, self.quotas, dict(self.costs))
        grant = (self.leased, self.grant_id, self.weights, self.granted_us, self.slot_us)
        return json.dumps((*call, *grant), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Permit:
        """The permit that `to_json` wrote. Errors: ValueError for any other text."""
        try:
            request_id, holder, quotas, costs, leased, grant_id, *more = json.loads(text)
            # Older replicas wrote nothing after the grant, or the weights alone.
            weights = tuple(int(weight) for weight in (more[0] if more else ()))
            times = (int(more[1]), int(more[2])) if len(more) > 1 else (0, 0)
            return cls(
                request_id, holder, tuple(quotas), dict(costs), tuple(leased), grant_id, weights, *times
            )
        except (TypeError, ValueError) as error:
            raise ValueError("this is not a permit as `Permit.to_json` writes it") from error


@dataclass(frozen=True, slots=True)
class Bound:
    """The reason of a denial: `cause` is a unit, in_flight, cooldown or paused; `str` is `quota:NAME.CAUSE`."""

    quota: str
    cause: str

    @classmethod
    def parse(cls, text: str) -> Bound:
        """The bound that `str` or a script wrote; an empty text means that nothing holds the call back."""
        quota, _, cause = text.removeprefix("quota:").rpartition(".")
        return cls(quota, cause)

    def __str__(self) -> str:
        return f"quota:{self.quota}.{self.cause}"

    @property
    def ends_by_itself(self) -> bool:
        """Whether time alone ends it. A place in flight must be freed; an operator must end a pause."""
        return self.cause not in (IN_FLIGHT, PAUSED)


@dataclass(frozen=True, slots=True)
class Scale:
    """A change of a quota's learned rate, as shares of its configured rate from 0.01 to 1."""

    quota: str
    before: float
    now: float


@dataclass(frozen=True, slots=True)
class Grant:
    """A grant, which is charged. Send the call `wait_us` after this reply arrived, by a monotonic clock.

    It is a delay, so the clocks of the caller and of Redis need not agree. The call leaves at most one round trip
    late and never early. `scales` are the quotas whose learned rate this grant changed. `full` is the limit that has no
    place for the holder's next call; None if that is not known.
    """

    permit: Permit
    wait_us: int
    scales: tuple[Scale, ...] = ()
    full: Bound | None = None

    @property
    def charged(self) -> Permit:
        """The permit to give back if the call is not sent."""
        return self.permit


@dataclass(frozen=True, slots=True)
class Later:
    """A denial because of `bound`. Try again in `retry_us`.

    Nothing is charged, unless the request named its previous denial. Then it may have a `reservation`, whose slot is
    charged under all rates. The next try finds that slot or an earlier one. A caller that will not try again gives
    the reservation back.
    """

    retry_us: int
    bound: Bound
    reservation: Permit | None = None

    @property
    def charged(self) -> Permit | None:
        """The reservation to give back if the caller does not try again."""
        return self.reservation


@dataclass(frozen=True, slots=True)
class Penalty:
    """The effect of a refusal: the quota grants no slot for `pause_s` from now.

    `cut`: the refusal made a cut. A refusal of a call that was granted before the last cut makes none. `generation`
    counts the cuts. `scale` is the change of a learned rate; `places` is how many calls may be in flight now (0: no
    limit).
    """

    pause_s: float
    cut: bool
    generation: int
    scale: Scale | None
    places: int


@dataclass(frozen=True, slots=True)
class UnitState:
    """The units that exist and those that could be granted now, by the unit's tightest limit."""

    unit: str
    capacity: int
    available: int


@dataclass(frozen=True, slots=True)
class QuotaState:
    """A quota's state in Redis at one instant; `units` has one entry for each unit and one for in_flight.

    `in_flight` is the weight of the live leases, 0 without such a limit. `cooldown_s` is the rest of a provider's
    pause (0: none), `cooldown_generation` the number of cuts. `paused_reason` is the operator's reason, None if not
    paused; `pause_s` is the rest of that pause (None: no end). `scale` is the learned share of the rate.
    """

    quota: str
    units: tuple[UnitState, ...]
    in_flight: int
    cooldown_s: float
    cooldown_reason: str | None
    cooldown_generation: int
    paused_reason: str | None
    pause_s: float | None = None
    scale: float = 1.0
