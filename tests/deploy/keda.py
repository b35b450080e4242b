"""The fields of a ScaledObject with a trigger on Prometheus, as KEDA 2.18 documents them; others are refused."""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}


def _closed(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": list(required),
        "additionalProperties": False,
    }


_RULES = _closed(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies={
        "type": "array",
        "items": _closed(
            ("type", "value", "periodSeconds"),
            type={"enum": ["Pods", "Percent"]},
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        ),
    },
)
# All metadata of a trigger are texts: `false` without quotes is refused by the cluster.
_PROMETHEUS = _closed(
    ("serverAddress", "query", "threshold"),
    **dict.fromkeys(
        ("serverAddress", "query", "activationThreshold", "namespace", "customHeaders", "queryParameters"),
        TEXT,
    ),
    threshold={"type": "string", "pattern": r"^\d+(\.\d+)?$"},
    ignoreNullValues={"enum": ["true", "false"]},
    unsafeSsl={"enum": ["true", "false"]},
    timeout=TEXT,
)
_TRIGGER = _closed(
    ("type", "metadata"),
    type={"const": "prometheus"},
    name=TEXT,
    metadata=_PROMETHEUS,
    metricType={"enum": ["AverageValue", "Value"]},
    useCachedMetrics={"type": "boolean"},
    authenticationRef=_closed(("name",), name=TEXT, kind=TEXT),
)
SCALED_OBJECT = _closed(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "keda.sh/v1alpha1"},
    kind={"const": "ScaledObject"},
    metadata=_closed(
        ("name",), name=TEXT, namespace=TEXT, labels={"type": "object"}, annotations={"type": "object"}
    ),
    spec=_closed(
        ("scaleTargetRef", "triggers"),
        scaleTargetRef=_closed(("name",), name=TEXT, kind=TEXT, apiVersion=TEXT, envSourceContainerName=TEXT),
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        initialCooldownPeriod=COUNT,
        idleReplicaCount={"const": 0},
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        fallback=_closed(
            ("failureThreshold", "replicas"),
            failureThreshold=COUNT,
            replicas=COUNT,
            behavior={
                "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
            },
        ),
        advanced=_closed(
            restoreToOriginalReplicaCount={"type": "boolean"},
            horizontalPodAutoscalerConfig=_closed(
                name=TEXT, behavior=_closed(scaleUp=_RULES, scaleDown=_RULES)
            ),
        ),
        triggers={"type": "array", "minItems": 1, "items": _TRIGGER},
    ),
)
