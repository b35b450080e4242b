"""The kinds of values that jobs are made of, and the base of every model of the contract.

Models are strict: a text is not a number, and an unknown field is refused unless it begins with `x_`. Each field's
description names what is allowed; it is the text of the JSON Schema and of the refusals.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

IDENT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
IDENT_TEXT = "1 to 128 letters, digits or `.` `_` `:` `-`, beginning with a letter or digit"
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
SEED_MAX = 2**63 - 1

# For stored specs: they passed the checks before, perhaps in a newer replica that knows more fields.
TRUSTED = {"trusted": True}


class Model(BaseModel):
    """The base of every object of the contract: strict, frozen, closed except for `x_` fields."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        defer_build=True,  # commands that only read records save 10 ms; a worker spends them on its first entry
        extra="allow",  # `x_` fields are kept; `_refuse_unknown` refuses the others
        json_schema_extra={"additionalProperties": False, "patternProperties": {"^x_": {}}},
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any, info: ValidationInfo) -> Any:
        known = cls.model_fields.keys()
        if isinstance(data, dict) and not data.keys() <= known and info.context is not TRUSTED:
            for name in data:
                if name not in known and not (isinstance(name, str) and name.startswith("x_")):
                    raise PydanticCustomError("unknown_field", "unknown field", {"name": name, "model": cls})
        return data


def whole_number(text: str) -> int | None:
    """The whole number that a text names, in digits of ASCII; None for another text, or beyond the 64 bits of JSON."""
    if not re.fullmatch(r"[+-]?\d{1,19}", text, re.ASCII):
        return None
    return number if -SEED_MAX - 1 <= (number := int(text)) <= SEED_MAX else None


def problem(message: str, *path: str | int) -> PydanticCustomError:
    """A refusal whose sentence is ready; `path` leads from the validated object to the field."""
    return PydanticCustomError("sentence", "{sentence}", {"sentence": message, "path": path})


def _parse_time(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC)
    if not isinstance(value, str) or not (match := _RFC3339.fullmatch(value)):
        raise PydanticCustomError("not_a_time", "not a time")
    day, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(
            f"{day}T{clock}{(fraction or '')[:7]}{'+00:00' if zone in 'Zz' else zone}"
        )
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise PydanticCustomError("not_a_time", "not a time") from error


_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def _check_size(value: Any) -> Any:
    if not isinstance(value, str) or not (match := _SIZE.fullmatch(value)):
        raise PydanticCustomError("not_a_size", "not a size")
    first, form, second = int(match[1]), match[2], int(match[3])
    if form == ":" and max(first, second) > RATIO_MAX:
        raise problem(f'`{{field}}` says "{value}"; a size in pixels is written "{first}x{second}".')
    if form == "x" and not (PIXELS_MIN <= first <= PIXELS_MAX and PIXELS_MIN <= second <= PIXELS_MAX):
        raise PydanticCustomError("not_a_size", "not a size")
    return value


PIXELS_MIN, PIXELS_MAX, RATIO_MAX = 16, 16384, 99
_SIZE = re.compile(r"([1-9]\d{0,4})([x:])([1-9]\d{0,4})", re.ASCII)
SIZE_TEXT = f'pixels such as "1024x1024" (each {PIXELS_MIN} to {PIXELS_MAX}) or a ratio such as "16:9"'


def _check_url(value: Any) -> Any:
    # Refuses only URLs that are never right; the allowed hosts are checked when a connection is made.
    if not isinstance(value, str) or len(value) > URL_MAX:
        raise PydanticCustomError("not_a_url", "not a URL")
    if " " in value.strip() and _URL.fullmatch(value.replace(" ", "%20")):
        raise problem("`{field}` has a blank in it; write it as %20.")
    if not (match := _URL.fullmatch(value)):
        raise PydanticCustomError("not_a_url", "not a URL")
    if "@" in match[1]:
        raise problem("`{field}` must not carry a user name or password.")
    return value


URL_MAX = 4096
_URL = re.compile(r"https?://([^/?#\s\\]++)[^\s\\]*+", re.ASCII)

URL_TEXT = "an http or https URL of up to 4096 characters, without user or password"

Ident = Annotated[str, StringConstraints(pattern=IDENT_PATTERN)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Time = Annotated[
    datetime, BeforeValidator(_parse_time), WithJsonSchema({"type": "string", "format": "date-time"})
]
Size = Annotated[
    str,
    BeforeValidator(_check_size),
    WithJsonSchema({"type": "string", "pattern": f"^{_SIZE.pattern}$"}),
]
Url = Annotated[
    str,
    BeforeValidator(_check_url),
    WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https?://", "maxLength": URL_MAX}),
]
Scalar = str | bool | int | float
ParamName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
ShortText = Annotated[str, StringConstraints(max_length=256)]
Metadata = Annotated[dict[ParamName, ShortText], Field(max_length=16)]
METADATA_TEXT = "at most 16 texts of up to 256 characters, under names of up to 64"
Priority = Literal["high", "normal", "low"]
TIME_TEXT = 'a time with its zone, such as "2030-01-31T09:00:00Z"'
