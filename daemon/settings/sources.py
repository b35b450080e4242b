"""Reads the places where settings stand: a TOML file with its lines, the environment, and flags.

Each source is a nested dict of values, and a label for each value with its place.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.settings.model import Settings, SettingsError, did_you_mean
from pixmill.broker.files import is_file

DEFAULT_FILE = Path("pixmill.toml")
CONFIG_VARIABLE = "PIXMILL_CONFIG"
PREFIX = "PIXMILL_"
# The file to read, and the names of producers' programs, which may share an environment with a worker.
_NO_SETTINGS = {CONFIG_VARIABLE, "PIXMILL_GATEWAY_URL", "PIXMILL_KEY"}

Path_ = tuple[str, ...]


@dataclass
class Source:
    """Values of one kind of place; `label` names the place of the value at a path."""

    values: dict[str, Any]
    label: Callable[[Path_], str]
    problems: list[str] = field(default_factory=list)


def config_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the given one, $PIXMILL_CONFIG, or ./pixmill.toml. One that was named must exist."""
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    if named is None:
        return DEFAULT_FILE if is_file(DEFAULT_FILE) else None
    return named


def toml_source(path: Path) -> Source:
    """The tables of a TOML file; raises SettingsError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise SettingsError([f"The configuration file {path} does not exist: check the path."]) from None
    except OSError as error:
        raise SettingsError([f"The configuration file {path} cannot be read: {error.strerror}."]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"The configuration file {path} is not UTF-8 text."]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: this is not TOML: {error}."]) from None
    lines = _lines(text)

    def label(at: Path_) -> str:
        # A value inside an inline table or a list has the line of that table or list.
        while at and at not in lines:
            at = at[:-1]
        return f"{path}:{lines[at]}" if at else str(path)

    return Source(values, label)


def environment_source(environ: Mapping[str, str], known: Mapping[str, Any]) -> Source:
    """Every `PIXMILL_SECTION__KEY`. `known` are the file's values: their names decide between `-` and `_`."""
    ours = {
        name: value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in _NO_SETTINGS and not _SERVICE_LINK.fullmatch(name)
    }
    problems: list[str] = []
    readable: dict[Path_, Any] = {}
    for name, text in ours.items():
        section, *inner = _env_path(name)
        value = _table_or_text(text)
        if section not in Settings.model_fields:
            hint = did_you_mean(section, Settings.model_fields)
            problems.append(f"environment {name}: there is no section `{section}`{hint}")
        elif not inner and not isinstance(value, dict):
            problems.append(
                f"environment {name}: a whole table is written as JSON, and this is no JSON object."
            )
        else:
            readable[section, *inner] = value
    values: dict[str, Any] = _renamed(nested(readable), known)
    if isinstance(quotas := values.get("quotas"), dict):
        values["quotas"] = {name: _typed(limits) for name, limits in quotas.items()}
    labels = {tuple(part.replace("-", "_") for part in _env_path(name)): name for name in ours}

    def label(at: Path_) -> str:
        folded = tuple(part.lower().replace("-", "_") for part in at)
        inside = (name for path, name in labels.items() if path[: len(folded)] == folded)
        above = (labels[folded[:length]] for length in range(len(folded), 0, -1) if folded[:length] in labels)
        return f"environment {next(above, None) or next(inside)}"

    return Source(values, label, problems)


def flag_source(overrides: Mapping[str, object]) -> Source:
    """Flags by their dotted key (`redis.url`); a flag that was not given (None) does not count."""
    given = {tuple(dotted.split(".")): value for dotted, value in overrides.items() if value is not None}
    return Source(nested(given), _flag)


def nested(values: Mapping[Path_, object]) -> dict[str, Any]:
    """Tables in tables, from values by their path. Where a value is a table itself, values below it go over its own."""
    tables: dict[str, Any] = {}
    for at in sorted(values, key=len):
        table = tables
        for part in at[:-1]:
            inner = table.get(part)
            table[part] = table = inner if isinstance(inner, dict) else {}
        table[at[-1]] = values[at]
    return tables


def _flag(at: Path_) -> str:
    return "flag --" + (_SHORT_FLAGS.get(at) or "-".join(at).replace("_", "-"))


# Flags that are not called after their key.
_SHORT_FLAGS: dict[Path_, str] = {("redis", "prefix"): "prefix", ("metrics", "listen"): "metrics"}


# Kubernetes sets variables such as PIXMILL_PORT=tcp://10.0.0.7:80 for a service called pixmill: not ours.
_SERVICE_LINK = re.compile(
    r"PIXMILL(?:_[A-Z0-9]+)*?_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_\w+)?)"
)


def _env_path(name: str) -> Path_:
    return tuple(name.removeprefix(PREFIX).lower().split("__"))


def _table_or_text(text: str) -> Any:
    """A JSON object as a table; any other text as it is."""
    with suppress(ValueError):
        if isinstance(table := json.loads(text), dict):
            return table
    return text


def _typed(limits: Any) -> Any:
    """Limits as TOML would have them: the environment has only texts, so numbers and tables are JSON."""
    if not isinstance(limits, dict):
        return limits
    typed = dict(limits)
    for name, value in limits.items():
        with suppress(TypeError, ValueError):
            typed[name] = json.loads(value)
    return typed


def _renamed(values: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Names as the file spells them: a variable cannot hold the `-` of `openai-main`."""
    spelled = {name.lower().replace("-", "_"): name for name in known}
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        own = spelled.get(name.replace("-", "_"), name)
        inner = known.get(own)
        renamed[own] = (
            _renamed(value, inner if isinstance(inner, Mapping) else {}) if isinstance(value, dict) else value
        )
    return renamed


_TABLE = re.compile(r"\s*\[([^\[\]]+)\]\s*(?:#.*)?")
_KEY = re.compile(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=")
_KEY_PART = re.compile(r"[\w-]+|\"[^\"]*\"|'[^']*'")


def _lines(text: str) -> dict[Path_, int]:
    """The line of each table and key. Only for messages, so texts that look like keys do no harm."""
    lines: dict[Path_, int] = {}
    table: Path_ = ()
    # Not splitlines(): a line of TOML ends with a line feed alone, and a text may hold other separators.
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _TABLE.fullmatch(line):
            table = _key_path(header[1])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_key_path(key[1])), number)
    return lines


def _key_path(text: str) -> Path_:
    return tuple(part.strip("\"'") for part in _KEY_PART.findall(text))
