"""Checks before money is spent: each raises `invalid_request` with the job's field.

The sentences say what is accepted, because the reader must write the job again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from providers.base import InputImage, Request
from providers.errors import ErrorKind, ProviderError
from providers.shared.account import nearest_hint

T = TypeVar("T")

OUTPUT_FORMATS = ("png", "jpeg", "webp")


def invalid(field: str, message: str) -> ProviderError:
    """The error to raise for a job's field."""
    return ProviderError(ErrorKind.INVALID_REQUEST, message, field=field)


def prompts(request: Request, *, max_chars: int, has_negative: bool) -> None:
    """There is a prompt, no text is too long, and a negative prompt is given only if the model has one."""
    if not request.prompt:
        raise invalid("prompt", "The prompt is empty.")
    if request.negative_prompt and not has_negative:
        raise invalid("negative_prompt", f"{request.model} has no negative prompt; say it in the prompt.")
    for field, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt or "")):
        if len(text) > max_chars:
            takes = f"{request.model} takes at most {max_chars}"
            raise invalid(field, f"The {field} has {len(text)} characters; {takes}.")


def convertible(field: str, value: T, convert: Callable[[T], object]) -> None:
    """A value that `convert` accepts: it raises ValueError with a sentence for any other."""
    try:
        convert(value)
    except ValueError as error:
        raise invalid(field, str(error)) from None


def seed(value: int | None, accepted: tuple[int, int] | None) -> None:
    """A seed in its range. If the range is None, the model gets no seed, and any seed passes."""
    if value is not None and accepted is not None and not accepted[0] <= value <= accepted[1]:
        raise invalid("seed", f"The seed {value} is outside {accepted[0]}..{accepted[1]}.")


def inputs(
    request: Request,
    *,
    max_inputs: int,
    max_bytes: int | None,
    has_mask: bool = False,
    content_types: Collection[str] | None = None,
    why_none: str = "",
) -> None:
    """Not more pictures than the model takes, none too large or of another type, and at most one mask beside a picture.

    A limit of None is not known. `why_none` is added to the sentence if the model takes no pictures at all.
    """
    masks = [image for image in request.inputs if image.role == "mask"]
    count = len(request.inputs) - len(masks)
    if count > max_inputs:
        takes = f"at most {max_inputs}" if max_inputs else "; ".join(filter(None, ("none", why_none)))
        raise invalid("inputs", f"{count} input pictures were given; {request.model} takes {takes}.")
    if masks and not has_mask:
        raise invalid(
            "inputs", f"{request.model} takes no mask; say in the prompt which part is to be changed."
        )
    if len(masks) > 1 or (masks and not count):
        raise invalid("inputs", "A mask needs a picture to apply to, and there can be only one mask.")
    for number, image in enumerate(request.inputs):
        _check_picture(f"inputs.{number}", image, max_bytes, content_types)


def _check_picture(
    field: str, image: InputImage, max_bytes: int | None, content_types: Collection[str] | None
) -> None:
    # Before the picture is fetched its type is not known.
    if content_types is not None and image.content_type and image.content_type not in content_types:
        known = ", ".join(sorted(content_types))
        raise invalid(field, f"{image.content_type} is not accepted; the model takes {known}.")
    if max_bytes is not None and len(image.data) > max_bytes:
        size, most = (f"{count / 1024**2:.1f} MiB" for count in (len(image.data), max_bytes))
        raise invalid(field, f"The picture has {size}; at most {most} are accepted.")


def output(request: Request, *, encodes: bool) -> None:
    """A known format, and a valid quality if the provider encodes; otherwise the caller converts the picture."""
    if request.output_format not in (None, *OUTPUT_FORMATS):
        raise invalid("output.format", f"{request.output_format!r} is not one of png, jpeg, webp.")
    if encodes and request.quality is not None and not 1 <= request.quality <= 100:
        raise invalid("output.quality", f"The quality {request.quality} is outside 1..100.")


def params(request: Request, accepted: Collection[str], choices: Mapping[str, Collection[str]]) -> None:
    """Only parameters that the model has; `choices` limits the values of some."""
    for name, value in request.params.items():
        if name not in accepted:
            known = ", ".join(sorted(accepted))
            hint = nearest_hint(name, accepted)
            message = f"{request.model} has no parameter {name!r}; it accepts {known}.{hint}"
            raise invalid(f"params.{name}", message)
        if name in choices and value not in choices[name]:
            known = ", ".join(choices[name])
            raise invalid(f"params.{name}", f"{value!r} is not a {name} of this model; it accepts {known}.")
