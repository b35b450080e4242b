"""Frames: pictures lead to the gateway, whatever the store is."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from daemon.gateway.events.frames import event_of

STORED = {"key": "shop/20261130/single/a.png", "url": "file:///srv/planted/a.png", "thumb_url": None}


@pytest.mark.parametrize(
    ("names", "address"),
    [
        ({"job": "a", "item": "a", "batch": None}, "/v1/jobs/a/images/0"),
        ({"job": "a", "item": "a.2", "batch": None}, "/v1/jobs/a/images/2"),
        ({"job": "i1", "item": "i1", "batch": "b"}, "/v1/batches/b/items/i1/images/0"),
        ({"job": "i1", "item": "i1.3", "batch": "b"}, "/v1/batches/b/items/i1.3/images/0"),
    ],
)
def test_the_pictures_of_an_event_lead_to_the_gateway(names: dict[str, Any], address: str) -> None:
    data = {"tenant": "shop", **names, "images": [STORED]}
    event = event_of("1-0", {b"type": b"job.succeeded", b"data": orjson.dumps(data)})
    assert event is not None
    assert b"planted" not in event.frame
    image = orjson.loads(event.frame.partition(b"data: ")[2])["images"][0]
    assert (image["url"], image["thumb_url"]) == (address, f"{address}?thumb=1")
    assert image["key"] == STORED["key"]
