"""Tells this machine from others by the name of a host."""

from __future__ import annotations

import ipaddress
from contextlib import suppress


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, beyond doubt."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    # Any other name may resolve to any address.
    return host == "localhost"
