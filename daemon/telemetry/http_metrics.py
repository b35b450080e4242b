"""The metrics of the gateway. A label holds a route's template, never an address: ids would be series without end."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from daemon.telemetry.metrics import Metric, Registered

_REQUEST_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class HttpMetrics(Registered):
    """Counts requests and listeners, in the registry of the process."""

    http_requests = Metric(Counter, "Requests answered.", "route_template", "method", "status")
    http_request_seconds = Metric(
        Histogram,
        "From a request to the last byte of its answer.",
        "route_template",
        "method",
        buckets=_REQUEST_S,
    )
    http_listeners = Metric(Gauge, "Listeners of live events.")
    http_resyncs = Metric(Counter, "Listeners that lost events and had to read everything again.")
