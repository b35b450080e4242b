"""Makes entries that no producer should send: good ones with changed bytes, JSON or fields."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import orjson

from daemon.compat.studio import STUDIO_TYPE
from pixmill.contract.entry import BATCH_TYPE, CANCEL_TYPE, JOB_TYPE, RETRY_TYPE

Entry = dict[bytes, bytes]

IDS = [f"j{number}" for number in range(60)]
STRANGE: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e308,
        2**63,
        -(2**63),
        10**400,
        "",
        "x",
        "\0",
        "é" * 200,
        "a/b",
        "../..",
        " ",
    ),
    *([], {}, [[]], [None], {"": ""}, {"a": {"b": [1, {"c": None}]}}, "\u202e", "🐫" * 50, "x" * 5000),
    *(
        "default",
        "single",
        "2026-13-45T99:99:99Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "16:9",
    ),
]
TYPES = [
    JOB_TYPE,
    BATCH_TYPE,
    CANCEL_TYPE,
    RETRY_TYPE,
    STUDIO_TYPE,
    "pixmill.job.v9",
    "",
    "\xff",
    "job" * 500,
]


class Mutator:
    """Draws entries from `seed`; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def entry(self) -> Entry:
        """One entry: a good one with up to three changes."""
        draw = self._draw
        kind, payload = self._good()
        for _ in range(draw.choice([0, 1, 1, 2, 3])):
            self._change(payload)
        data = _dumped(payload)
        for _ in range(draw.choice([0, 0, 0, 1, 2])):
            data = draw.choice(_BYTES)(draw, data)
        fields = {b"data": data, b"type": kind.encode()}
        for _ in range(draw.choice([0, 0, 0, 0, 1, 2])):
            draw.choice(_FIELDS)(draw, fields)
        return fields or {b"": b""}

    def _good(self) -> tuple[str, dict[str, Any]]:
        draw = self._draw
        ident, tenant = draw.choice(IDS), draw.choice(["default", "anna"])
        job = {"id": ident, "tenant": tenant, "prompt": draw.choice(["a cat", "a dog"]), "seed": 0, "n": 1}
        match draw.randrange(10):
            case 0 | 1 | 2:
                return JOB_TYPE, job
            case 3:
                more = {
                    "inputs": [{"url": "https://example.com/a.png"}],
                    "params": {"steps": 4},
                    "size": "16:9",
                }
                times = {"not_before": "2030-01-01T00:00:00Z", "deadline": "2031-01-01T00:00:00+08:00"}
                return JOB_TYPE, {**job, **more, **times, "metadata": {"order": "7"}, "n": draw.randint(1, 3)}
            case 4 | 5 | 6:
                items = [{"id": f"i{number}", "priority": "low"} for number in range(draw.randint(1, 4))]
                parts = draw.choice([1, 1, 2])
                batch = {"id": f"b{ident}", "tenant": tenant, "defaults": {"prompt": "x"}, "items": items}
                return BATCH_TYPE, {
                    **batch,
                    "parts": parts,
                    "part": draw.randint(1, parts),
                    "max_in_flight": 2,
                }
            case 7:
                return CANCEL_TYPE, {"job": ident, "tenant": tenant, "statuses": ["queued", "running"]}
            case 8:
                return RETRY_TYPE, {
                    "batch": f"b{ident}",
                    "tenant": tenant,
                    "statuses": ["failed", "cancelled"],
                }
            case _:
                return STUDIO_TYPE, _studio(ident)

    def _change(self, payload: Any) -> None:
        """Change one place, however deep: remove it, double it, or put something strange there."""
        draw, node = self._draw, payload
        while inner := [value for value in _values(node) if isinstance(value, dict | list) and value]:
            if draw.random() < 0.4:
                break
            node = draw.choice(inner)
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node))) if node else "id"
        match draw.randrange(7):
            case 0 if node:
                del node[key]
            case 1 | 2 | 3:
                node[key] = deepcopy(draw.choice(STRANGE))
            case 4:
                node[key] = _nested(draw.choice([2, 2, 40, 40, 5000]), draw.choice(["[", "{"]))
            case 5 if isinstance(node, dict):
                name = draw.choice(["promt", "x_own", "api_key", "Token", "\0", "", "id "])
                node[name] = deepcopy(draw.choice(STRANGE))
            case _ if node:
                small = not isinstance(node[key], dict | list) and len(str(node[key])) < 20
                node[key] = [node[key]] * (draw.choice([2, 2, 2, 1100]) if small else 2)


def _values(node: Any) -> list[Any]:
    return list(node.values() if isinstance(node, dict) else node)


class _Raw(bytes):
    """Raw JSON that no Python value can express."""


def _nested(depth: int, bracket: str) -> _Raw:
    opening, closing = (b"[", b"]") if bracket == "[" else (b'{"a":', b"}")
    return _Raw(opening * depth + b"1" + closing * depth)


def _dumped(value: Any) -> bytes:
    """JSON, with the invalid pieces of the value (NaN, numbers of any size, raw text)."""
    match value:
        case _Raw():
            return bytes(value)
        case dict():
            return (
                b"{" + b",".join(_dumped(key) + b":" + _dumped(inner) for key, inner in value.items()) + b"}"
            )
        case list():
            return b"[" + b",".join(map(_dumped, value)) + b"]"
        case int() if not isinstance(value, bool):
            return str(value).encode()
        case _:
            return orjson.dumps(value)


def _studio(ident: str) -> dict[str, Any]:
    pictures = [{"url": "https://example.com/1.png", "name": "1.png", "stem": "1"}]
    return {
        "job_id": f"s{ident}",
        "user_id": "u1",
        "mode": "batch_series_generate",
        "options": {
            "skus": ["sku1"],
            "sku_images_map": {"sku1": pictures},
            "settings": {},
            "api_key": "planted-secret",
            "prompt_templates": {"batch_series_generate": {"zh": "x", "en": "y"}},
        },
    }


def _cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randint(0, len(data))]


def _flip(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data or b"x")
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def _insert(draw: random.Random, data: bytes) -> bytes:
    pieces = [
        b"\xff\xfe",
        b"\\ud800",
        b"\xed\xa0\x80",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"\0",
        b'"',
        b"{",
        b"]",
        b"//",
    ]
    place = draw.randint(0, len(data))
    return data[:place] + draw.choice(pieces) + data[place:]


def _double_key(draw: random.Random, data: bytes) -> bytes:
    return data.replace(b"{", b'{"id":"' + draw.choice(IDS).encode() + b'",', 1)


def _not_a_number(draw: random.Random, data: bytes) -> bytes:
    return data.replace(b":0", b":" + draw.choice([b"NaN", b"Infinity", b"9" * 400, b"-0", b"0.0", b"01"]), 1)


def _surrogate(draw: random.Random, data: bytes) -> bytes:
    return data.replace(
        b'":"', b'":"' + draw.choice([b"\\ud800", b"\\udfff\\ud800", b"\xed\xbf\xbf", b"\\u0000"]), 1
    )


def _utf16(draw: random.Random, data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode(draw.choice(["utf-16", "utf-16-le", "utf-32"]))


def _huge(draw: random.Random, data: bytes) -> bytes:
    return data + b" " * draw.choice([262_143, 300_000])


_BYTES: list[Callable[[random.Random, bytes], bytes]] = [
    *(_cut, _flip, _insert, _double_key, _not_a_number, _surrogate, _flip, _insert, _utf16),
    # Rarely: it is the largest, and there is little to vary.
    lambda draw, data: _huge(draw, data) if draw.random() < 0.05 else _cut(draw, data),
]


def _other_type(draw: random.Random, fields: Entry) -> None:
    fields[b"type"] = draw.choice(TYPES).encode("latin-1")


def _renamed(draw: random.Random, fields: Entry) -> None:
    name = draw.choice(list(fields) or [b"data"])
    fields[draw.choice([b"Data", b"payload", b"", b"\xff", b"token", b"x" * 3000])] = fields.pop(name, b"")


def _dropped(draw: random.Random, fields: Entry) -> None:
    fields.pop(draw.choice([b"data", b"type"]), None)


def _more_fields(draw: random.Random, fields: Entry) -> None:
    names = [b"source", b"time", b"traceparent", b"job", b"type "]
    fields[draw.choice(names)] = draw.choice([b"", b"\xff\xfe", b"/shop", b'"}', b"\0", b"y" * 4000])


def _many_fields(draw: random.Random, fields: Entry) -> None:
    for number in range(draw.choice([2, 70, 70, 700])):
        fields[b"f%d" % number] = b"\xff"


_FIELDS: list[Callable[[random.Random, Entry], None]] = [
    *(_other_type, _other_type, _renamed, _dropped, _more_fields, _more_fields, _many_fields),
]
