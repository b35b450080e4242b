"""What providers refuse before money is spent: each check raises `invalid_request` with the job's field in it.

The sentences say what is accepted, because the reader has to write the job again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from providers.base import InputImage, Request, Scalar
from providers.errors import ErrorKind, ProviderError
from providers.shared.account import nearest_hint

OUTPUT_FORMATS = ("png", "jpeg", "webp")


def invalid(field: str, message: str) -> ProviderError:
    """The error to raise for a job's field."""
    return ProviderError(ErrorKind.INVALID_REQUEST, message, field=field)


def check_prompts(request: Request, *, max_chars: int, has_negative: bool) -> None:
    """A prompt that is there and neither it nor a negative one too long; a negative one only where the model has it."""
    if not request.prompt:
        raise invalid("prompt", "The prompt is empty.")
    if request.negative_prompt and not has_negative:
        raise invalid("negative_prompt", f"{request.model} has no negative prompt; say it in the prompt.")
    for field, text in (("prompt", request.prompt), ("negative_prompt", request.negative_prompt or "")):
        if len(text) > max_chars:
            takes = f"{request.model} takes at most {max_chars}"
            raise invalid(field, f"The {field} has {len(text)} characters; {takes}.")


def check_seed(seed: int | None, accepted: tuple[int, int] | None) -> None:
    """A seed in its range. None as a range: the model gets no seed, so any may be asked for."""
    if seed is not None and accepted is not None and not accepted[0] <= seed <= accepted[1]:
        raise invalid("seed", f"The seed {seed} is outside {accepted[0]}..{accepted[1]}.")


def check_inputs(
    request: Request,
    *,
    max_inputs: int,
    max_bytes: int | None,
    has_mask: bool = False,
    content_types: Collection[str] | None = None,
    why_none: str = "",
) -> None:
    """Not more pictures than the model takes, none too large or of another type, at most one mask beside a picture.

    None as a limit: not known. `why_none` is told where the model takes no pictures at all.
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
    # Before the picture was fetched nothing is known of its type.
    if content_types is not None and image.content_type and image.content_type not in content_types:
        known = ", ".join(sorted(content_types))
        raise invalid(field, f"{image.content_type} is not accepted; the model takes {known}.")
    if max_bytes is not None and len(image.data) > max_bytes:
        size, most = (f"{count / 1024**2:.1f} MiB" for count in (len(image.data), max_bytes))
        raise invalid(field, f"The picture has {size}; at most {most} are accepted.")


def check_output(request: Request, *, encodes: bool) -> None:
    """A known format, and a quality where the provider encodes; others are converted by the caller."""
    if request.output_format not in (None, *OUTPUT_FORMATS):
        raise invalid("output.format", f"{request.output_format!r} is not one of png, jpeg, webp.")
    if encodes and request.quality is not None and not 1 <= request.quality <= 100:
        raise invalid("output.quality", f"The quality {request.quality} is outside 1..100.")


def check_params(
    params: Mapping[str, Scalar],
    *,
    accepted: Collection[str],
    choices: Mapping[str, Collection[str]],
    model: str,
) -> None:
    """Only parameters that the model has, with values that it knows where those are known."""
    for name, value in params.items():
        if name not in accepted:
            known = ", ".join(sorted(accepted))
            hint = nearest_hint(name, accepted)
            raise invalid(f"params.{name}", f"{model} has no parameter {name!r}; it accepts {known}.{hint}")
        if name in choices and value not in choices[name]:
            known = ", ".join(choices[name])
            raise invalid(f"params.{name}", f"{value!r} is not a {name} of this model; it accepts {known}.")
