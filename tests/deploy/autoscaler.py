"""A fleet under KEDA in virtual time: what its replicas run, what Prometheus averages, what the autoscaler wants."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

TOLERANCE = 0.1  # of the HorizontalPodAutoscaler
SYNC_S = 15


@dataclass(frozen=True, slots=True)
class Scaling:
    """The numbers of a ScaledObject."""

    threshold: float
    least: int
    most: int
    hold_s: int
    mean_s: int

    @classmethod
    def read(cls, document: dict[str, Any]) -> Scaling:
        spec = document["spec"]
        (trigger,) = spec["triggers"]
        query, _, window = trigger["metadata"]["query"].rstrip(")]").partition("[")
        assert (query, window) == ("avg_over_time(sum(pixmill_in_flight)", f"2m:{SYNC_S}s")
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        return cls(
            float(trigger["metadata"]["threshold"]),
            spec["minReplicaCount"],
            spec["maxReplicaCount"],
            behavior["scaleDown"]["stabilizationWindowSeconds"],
            120,
        )

    def desired(self, total: float, replicas: int) -> int:
        """The wish of the autoscaler for an AverageValue, before it holds a scale-down back."""
        wanted = replicas
        if abs(total / (self.threshold * replicas) - 1) > TOLERANCE:
            wanted = math.ceil(total / self.threshold)
        return min(self.most, max(self.least, wanted))


@dataclass(frozen=True, slots=True)
class Account:
    """The limits of a provider, and how long a picture takes it."""

    images: int
    period_s: int
    in_flight: int
    call_s: int


def replicas_over_time(
    scaling: Scaling, account: Account, *, slots: int, backlog: int, hours: float = 1.0
) -> list[int]:
    """The number of replicas at each look of the autoscaler, from an idle fleet on.

    Only what has a permit is in a slot.
    """
    replicas, seen = scaling.least, [scaling.least]
    ends: deque[int] = deque()
    starts: deque[int] = deque()
    idle = scaling.mean_s // SYNC_S
    samples = deque([0] * idle, maxlen=idle)
    wishes: deque[int] = deque(maxlen=scaling.hold_s // SYNC_S)
    for now in range(int(hours * 3600)):
        while ends and ends[0] <= now:
            ends.popleft()
        while starts and starts[0] <= now - account.period_s:
            starts.popleft()
        places = min(slots * replicas, account.in_flight) - len(ends)
        begun = max(0, min(backlog, places, account.images - len(starts)))
        backlog -= begun
        starts.extend([now] * begun)
        ends.extend([now + account.call_s] * begun)
        if now % SYNC_S == 0:
            samples.append(len(ends))
            wishes.append(scaling.desired(sum(samples) / len(samples), replicas))
            replicas = wishes[-1] if wishes[-1] >= replicas else min(replicas, max(wishes))
            seen.append(replicas)
    return seen
