"""Tencent Hunyuan Image 3.0, over one of three wires that the credential names.

`tc3` is Tencent Cloud's signed API, which Tencent is retiring; `tokenhub_async` and `tokenhub_sync` are its
successors. Requests, refusals and receipts look the same from outside on every wire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from providers.hunyuan.tc3 import Tc3Provider
from providers.hunyuan.tokenhub import TokenHubCallProvider, TokenHubTaskProvider
from providers.hunyuan.wire import HunyuanProvider
from providers.shared.account import base_address, check_header_options, check_options, chosen, secret_of

__all__ = ["HunyuanProvider", "create"]

_WIRES: dict[str, type[HunyuanProvider]] = {
    "tc3": Tc3Provider,
    "tokenhub_async": TokenHubTaskProvider,
    "tokenhub_sync": TokenHubCallProvider,
}
_OPTIONS = ("wire", "region", "revise", "logo_add", "allow_hosts")


def create(
    *,
    base_url: str | None,
    secrets: Mapping[str, str],
    options: Mapping[str, str],
    now: Callable[[], float] = time.time,
) -> HunyuanProvider:
    """A provider for one credential; raises ValueError with a sentence.

    Secrets: `secret_id` and `secret_key` for wire tc3, `api_key` for the two TokenHub wires. Options: `wire`
    (default tc3), `region` (of tc3; default ap-guangzhou), `revise` and `logo_add` ("true" or "false", for jobs
    that do not say it themselves; Tencent's own default is to rewrite prompts and to mark pictures visibly),
    `allow_hosts` (hosts, by comma, whose result addresses may be plain http or private). `now` is the Unix time
    that tc3 signs.
    """
    check_options("hunyuan", options, _OPTIONS)
    check_header_options(options, ("region",))
    name = chosen(options, "wire", _WIRES, default="tc3")
    if "region" in options and name != "tc3":
        raise ValueError(f"The wire {name} has no regions: leave `region` out.")
    wire = _WIRES[name]
    if name == "tc3" and base_address(base_url or wire.default_base_url).path not in ("", "/"):
        raise ValueError("base_url must be a host without a path: the wire tc3 signs the path /.")
    found = [secret_of(f"hunyuan (wire {name})", secrets, secret) for secret in wire.secret_names]
    return wire(base_url or wire.default_base_url, found, options, now)
