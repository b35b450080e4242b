"""The kinds of values that an operator writes: durations, sizes, addresses, URLs that may hold a password."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pixmill.broker.redis_url import REDIS_SCHEMES, RedisUrlError, read_redis_url

_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 1000**2, "MiB": 1024**2, "GB": 1000**3, "GiB": 1024**3}
_NUMBER_AND_UNIT = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([A-Za-z]*)\s*")
_DURATION_TEXT = 'a duration such as "500ms", "15s", "2min", "24h" or "7d" (a bare number is seconds)'
_SIZE_TEXT = 'a size such as "256KiB" or "25MiB" (a bare number is bytes)'


def parse_duration(value: Any) -> float:
    """Seconds from a text such as "2min"; a bare number is seconds."""
    return _measured(value, _SECONDS, "s", _DURATION_TEXT)


def parse_size(value: Any) -> int:
    """Bytes from a text such as "25MiB"; a bare number is bytes."""
    return int(_measured(value, _BYTES, "B", _SIZE_TEXT))


def duration_text(seconds: float) -> str:
    """Seconds as an operator would write them: 120.0 is "2min"."""
    for unit in ("d", "h", "min", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{round(seconds, 6):f}".rstrip("0").rstrip(".") + "s"


@dataclass(frozen=True)
class Shown:
    """Marks a type of value that is printed in another form than it is stored."""

    text: Callable[[Any], str]


class _Text(str):
    """A text with methods of its own, which pydantic builds from a plain one."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: str) -> Self:
        return cls(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls.parse, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )


class SecretUrl(_Text):
    """A URL that a client can use as it is, and that shows no password when it is printed or logged.

    `str()`, `repr()` and formatting mask it; clients that split or slice the text get the real one, and
    `reveal()` gives it on purpose.
    """

    __slots__ = ()

    def reveal(self) -> str:
        """The URL with its password, for a client that formats it itself."""
        return str.__str__(self)

    def __str__(self) -> str:
        return masked_url(self.reveal())

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def masked_url(url: str) -> str:
    """The URL with its password, and the values of its query, hidden."""
    # Up to the last `@`: an unquoted password may itself hold any sign.
    hidden = url if url.startswith("file:") else _USERINFO.sub(_mask_userinfo, url, count=1)
    return _QUERY_SECRET.sub(r"\1=***", hidden)


_USERINFO = re.compile(r"(?<=://)(.*)@")
_QUERY_SECRET = re.compile(
    r"([?&][^=&#]*(?:password|secret|token|key|signature)[^=&#]*)=[^&#]*", re.IGNORECASE
)


def _mask_userinfo(match: re.Match[str]) -> str:
    user, colon, _ = match[1].partition(":")
    # Without a colon it may be a token in the place of the user, so nothing of it is shown.
    return f"{user}:***@" if colon else "***@"


class Listen(_Text):
    """`host:port`; an IPv6 host stands in brackets."""

    __slots__ = ()

    @property
    def host(self) -> str:
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])

    @classmethod
    def parse(cls, value: str) -> Self:
        """The address; raises pydantic's error for any other text."""
        match = _LISTEN.fullmatch(value)
        if not match or int(match[1]) > 65535:
            raise _wrong('an address such as "127.0.0.1:8080" or "[::1]:8080"')
        return cls(value)


_LISTEN = re.compile(r"(?:\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")


def _measured(value: Any, units: Mapping[str, float], bare_unit: str, allowed: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
        return float(value)
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        unit = units.get(match[2] or bare_unit)
        if unit is not None:
            return float(match[1]) * unit
    raise _wrong(allowed)


def _wrong(allowed: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "must be {allowed}", {"allowed": allowed})


def _url(*schemes: str) -> Callable[[Any], Any]:
    allowed = "a URL that begins with " + " or ".join(f"{scheme}://" for scheme in schemes)

    def check(value: Any) -> Any:
        if not isinstance(value, str) or value.partition("://")[0] not in schemes:
            raise _wrong(allowed)
        return value

    return check


def _redis_url(value: Any) -> Any:
    """Refuse a wrong URL here: the client's own error would come later and show a part of the password."""
    _url(*REDIS_SCHEMES)(value)
    try:
        read_redis_url(value)
    except RedisUrlError as error:
        raise _wrong(str(error)) from None
    return value


def _store_url(value: Any) -> Any:
    _url("file", "s3", "gs", "az", "memory")(value)
    if value.startswith("file:") and urlsplit(value).netloc not in ("", "localhost"):
        raise _wrong(
            "a whole path behind three slashes, such as file:///srv/images: two are followed by a host"
        )
    return value


def _http_base(value: str) -> str:
    _url("https", "http")(value)
    if "@" in value:
        raise _wrong("a URL without a user name or password")
    return value.rstrip("/")


def _comma_list(value: Any) -> Any:
    # The environment has texts only: PIXMILL_NETWORK__ALLOW_HOSTS=a.example,b.example
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Duration = Annotated[float, BeforeValidator(parse_duration), Shown(duration_text)]
Bytes = Annotated[int, BeforeValidator(parse_size)]
RedisUrl = Annotated[SecretUrl, BeforeValidator(_redis_url)]
PostgresUrl = Annotated[SecretUrl, BeforeValidator(_url("postgresql", "postgres"))]
StoreUrl = Annotated[SecretUrl, BeforeValidator(_store_url)]
HttpBase = Annotated[str, AfterValidator(_http_base)]
Names = Annotated[list[str], BeforeValidator(_comma_list)]
