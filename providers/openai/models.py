"""What each family of OpenAI image models accepts, and which of its sizes is nearest to the one wanted.

The model name stays free: compatible gateways serve retired and foreign models, which get generous rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from providers.shared.sizes import RATIO, SIZE, near_one_megapixel, not_a_size

GPT_IMAGE_PARAMS = frozenset(
    {"quality", "background", "moderation", "input_fidelity", "user", "safety_identifier"}
)
COMPATIBLE_PARAMS = GPT_IMAGE_PARAMS | {
    "style",
    "steps",
    "num_inference_steps",
    "guidance",
    "guidance_scale",
    "strength",
    "watermark",
    "prompt_extend",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The rules of one family. `choices` limits the values of a parameter; others take any value."""

    max_prompt_chars: int
    max_inputs: int
    params: frozenset[str]
    sizes: tuple[str, ...] = ()  # empty: any size that `size_problem` accepts
    size_problem: Callable[[int, int], str | None] | None = None
    choices: dict[str, tuple[str, ...]]
    has_seed: bool = False
    has_negative_prompt: bool = False
    encodes: bool = True  # takes output_format and output_compression
    has_response_format: bool = False  # gpt-image models answer 400 to the field itself
    response_format: str | None = None  # sent where the credential asks for no other

    def wire_size(self, size: str | None) -> str | None:
        """The size to send for what a job asks for; raises ValueError with what is accepted."""
        if size is None:
            return None
        if ratio := RATIO.fullmatch(size):
            return self._nearest(int(ratio[1]), int(ratio[2]))
        if not (exact := SIZE.fullmatch(size)):
            raise ValueError(not_a_size(size))
        if self.sizes and size not in self.sizes:
            raise ValueError(f"{size} is not accepted by this model; it accepts {', '.join(self.sizes)}.")
        if self.size_problem and (problem := self.size_problem(int(exact[1]), int(exact[2]))):
            raise ValueError(f"{size} is not accepted by this model: {problem}.")
        return size

    def _nearest(self, width: int, height: int) -> str:
        if not width or not height:
            raise ValueError(f"{width}:{height} is not a ratio.")
        if not self.sizes:
            return self._of_about_one_megapixel(width, height)
        wanted = math.log(width / height)

        def distance(size: str) -> float:
            w, h = map(int, size.split("x"))
            return abs(math.log(w / h) - wanted)

        return min(self.sizes, key=distance)

    def _of_about_one_megapixel(self, width: int, height: int) -> str:
        w, h = near_one_megapixel(width, height)
        if self.size_problem and (problem := self.size_problem(w, h)):
            raise ValueError(f"{width}:{height} is not accepted by this model: {problem}.")
        return f"{w}x{h}"


def family_of(model: str) -> Family:
    """The rules for `model`; names that are not OpenAI's get those of a generous compatible gateway."""
    name = model.rpartition("/")[2].lower()
    if found := re.match(r"gpt-image-(\d+)(?:\.(\d+))?", name):
        version = (int(found[1]), int(found[2] or 0))
        if version >= (2, 5):
            return _GPT_IMAGE_25
        return _GPT_IMAGE_2 if version >= (2, 0) else _GPT_IMAGE_1
    return {"dall-e-3": _DALL_E_3, "dall-e-2": _DALL_E_2}.get(name, _COMPATIBLE)


def _flexible_size_problem(width: int, height: int) -> str | None:
    if width % 16 or height % 16 or not width or not height:
        return "both sides must be multiples of 16"
    if not 1 / 3 <= width / height <= 3:
        return "the ratio must lie between 1:3 and 3:1"
    if max(width, height) > 3840 or min(width, height) > 2160:
        return "it may be at most 3840x2160 (or 2160x3840)"
    return None


def _sane_size_problem(width: int, height: int) -> str | None:
    return None if 16 <= min(width, height) <= max(width, height) <= 4096 else "sides must lie in 16..4096"


_QUALITY = ("auto", "low", "medium", "high")
_GPT_CHOICES = {
    "quality": _QUALITY,
    "background": ("transparent", "opaque", "auto"),
    "moderation": ("low", "auto"),
    "input_fidelity": ("high", "low"),
}

_GPT_IMAGE_1 = Family(
    max_prompt_chars=32_000,
    max_inputs=16,
    params=GPT_IMAGE_PARAMS,
    sizes=("1024x1024", "1536x1024", "1024x1536"),
    choices=_GPT_CHOICES,
)
_GPT_IMAGE_2 = Family(
    max_prompt_chars=32_000,
    max_inputs=16,
    params=GPT_IMAGE_PARAMS,
    size_problem=_flexible_size_problem,
    choices=_GPT_CHOICES,
)
_GPT_IMAGE_25 = Family(
    max_prompt_chars=32_000,
    max_inputs=16,
    params=GPT_IMAGE_PARAMS,
    size_problem=_flexible_size_problem,
    choices=_GPT_CHOICES | {"quality": (*_QUALITY, "xhigh", "max")},
)
_DALL_E_3 = Family(
    max_prompt_chars=4_000,
    max_inputs=0,
    params=frozenset({"quality", "style", "user"}),
    sizes=("1024x1024", "1792x1024", "1024x1792"),
    choices={"quality": ("standard", "hd"), "style": ("vivid", "natural")},
    encodes=False,
    has_response_format=True,
    response_format="b64_json",
)
_DALL_E_2 = Family(
    max_prompt_chars=1_000,
    max_inputs=0,
    params=frozenset({"user"}),
    sizes=("256x256", "512x512", "1024x1024"),
    choices={},
    encodes=False,
    has_response_format=True,
    response_format="b64_json",
)
_COMPATIBLE = Family(
    max_prompt_chars=32_000,
    max_inputs=16,
    params=COMPATIBLE_PARAMS,
    size_problem=_sane_size_problem,
    choices={},
    has_seed=True,
    has_negative_prompt=True,
    has_response_format=True,
)
