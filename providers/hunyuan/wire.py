"""The base of Hunyuan's wires: checks, defaults of the account, and the fields of a request."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from providers.base import Capabilities, Request
from providers.hunyuan.models import MAX_INPUTS, MAX_PROMPT_CHARS, SEED_RANGE, Rules, Wanted, wanted
from providers.shared.account import chosen
from providers.shared.provider import HttpProvider


class HunyuanProvider(HttpProvider):
    """One account at Tencent Cloud or at TokenHub; a subclass is one wire."""

    name = "hunyuan"
    wire: str
    mode: Literal["sync", "task"] = "task"
    default_base_url: str
    url_ttl_s: float | None = None
    max_answer_bytes = 1024 * 1024  # addresses, never pictures
    rules = Rules(
        params=frozenset({"resolution", "revise", "logo_add"}),
        max_input_bytes=4_500_000,  # less than 6 MB of base64
    )
    secret_names: Sequence[str] = ("api_key",)

    def __init__(
        self, base_url: str, secrets: Sequence[str], options: Mapping[str, str], now: Callable[[], float]
    ) -> None:
        super().__init__(base_url, secrets, options)
        self._now = now
        self._region = options.get("region", "ap-guangzhou")
        self._defaults = {
            name: chosen(options, name, ("true", "false"), default="") == "true"
            for name in ("revise", "logo_add")
            if name in options
        }
        for name in self._defaults:
            if name not in self.rules.params:
                raise ValueError(f"The wire {self.wire} has no `{name}`: leave the option out.")

    def capabilities(self, model: str) -> Capabilities:  # noqa: ARG002 (every model of a wire is alike)
        """See Provider.capabilities."""
        return Capabilities(
            mode=self.mode,
            max_prompt_chars=MAX_PROMPT_CHARS,
            max_inputs=MAX_INPUTS,
            seed_range=SEED_RANGE,
            url_ttl_s=self.url_ttl_s,
        )

    def check(self, request: Request) -> None:
        """See Provider.check. The caller converts to the output format: the provider offers no choice."""
        self._wanted(request)

    def _wanted(self, request: Request) -> Wanted:
        return wanted(request, self.rules, self._defaults)

    def _task_fields(self, request: Request) -> dict[str, Any]:
        """The fields of a task, in TokenHub's spelling."""
        wanted_ = self._wanted(request)
        return {
            "prompt": wanted_.prompt,
            "images": encoded(request) or None,
            "resolution": "{}:{}".format(*wanted_.size) if wanted_.size else None,
            "seed": wanted_.seed,
            "revise": None if wanted_.revise is None else int(wanted_.revise),
            "logo_add": None if wanted_.logo_add is None else int(wanted_.logo_add),
        }


def encoded(request: Request) -> list[str]:
    """The input pictures in base64."""
    return [base64.b64encode(image.data).decode() for image in request.inputs]
