"""The alerts and the panels of deploy/, evaluated by the Prometheus of a fleet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.deploy.files import alerts, dashboard, panels
from tests.deploy.fleet.prometheus import Prometheus, Sample
from tests.e2e.processes import wait_until

PATIENCE_S = 40.0
SHOWN = 3  # series of a query
# Nobody waits for an hour here. The rest of the expression is the deployed one; promtool tests have the real times.
SHORTENED = {"PixmillNoProgress": ("> 600", "> 3"), "PixmillOldItem": ("> 3600", "> 3")}


@dataclass
class Watch:
    """Sees alerts become true. `seen` has the first value of each."""

    prometheus: Prometheus
    say: Callable[[str], None] = lambda _line: None
    seen: dict[str, Sample] = field(default_factory=dict)

    def __call__(self, *names: str, while_: Callable[[], object] = lambda: None) -> None:
        """Wait until the expressions of these alerts have a value; `while_` is repeated meanwhile."""
        for name in names:
            self.seen[name] = self._first(name, while_)
            self.say(f"alert  {name}: true, {shown(self.seen[name])}")

    def _first(self, name: str, while_: Callable[[], object]) -> Sample:
        expression = shortened(name)

        def samples() -> list[Sample]:
            while_()
            return self.prometheus.query(expression)

        found: list[Sample] = wait_until(samples, PATIENCE_S, lambda: f"{name} stays false: {expression}")
        return found[0]


def shortened(name: str) -> str:
    """The expression of an alert, with a time that a test can wait for."""
    expression = alerts()[name]
    if name in SHORTENED:
        assert SHORTENED[name][0] in expression
        expression = expression.replace(*SHORTENED[name])
    return expression


def queries() -> Iterator[tuple[str, str, str]]:
    """Each query of the dashboard: its place, its expression, and the text that names its labels."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}", target["expr"], target["legendFormat"]
    for note in dashboard()["annotations"]["list"]:
        yield f"annotation {note['name']!r}", note["expr"], note["titleFormat"]


def faults_of(prometheus: Prometheus, say: Callable[[str], None] = lambda _line: None) -> list[str]:
    """The queries of the dashboard that have no data, or not the labels of their legend."""
    faults = []
    for place, expression, legend in queries():
        samples = prometheus.query(expression)
        values = "; ".join(map(shown, samples[:SHOWN])) or "NO DATA"
        more = f"; {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
        say(f"{place}\n    {expression}\n    = {values}{more}")
        if not samples:
            faults.append(f"{place} has no data: {expression}")
        elif lacking := set(re.findall(r"{{(\w+)}}", legend)) - {
            label for each in samples for label in each[0]
        }:
            faults.append(f"{place} has no label {lacking}: {expression}")
    return faults


def shown(sample: Sample) -> str:
    labels = ", ".join(
        f"{name}={value}" for name, value in sample[0].items() if name not in ("__name__", "job")
    )
    return f"{{{labels}}} {sample[1]:.4g}" if labels else f"{sample[1]:.4g}"
