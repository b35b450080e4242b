"""The files of the page, read once: each with its type, its tag, and the smaller form that most browsers take.

Comments and indentation are for readers of the source: they stay here.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ASSETS: Final = Path(__file__).parent / "assets"
INDEX: Final = "index.html"
WORDS: Final = "core/words/"
VIEWS: Final = ("overview", "batch", "new")  # each has a folder

VENDOR: Final = "vendor/"  # with the licences that its files begin with
# Served as one file: a browser paints nothing before it has all styles. Later ones go over earlier ones.
STYLE: Final = "style.css"
STYLES: Final = tuple(
    f"style/{name}.css"
    for name in ("tokens", "base", "parts", "shell", "overview", "batch", "tile", "dialog", "new")
)

_MODULES_HERE: Final = b"<!-- modules -->"
# A comment that fills its lines or ends one, an empty line, or the space before a line's first character.
_FOR_READERS: Final = re.compile(
    rb"^ *(?:/\*(?:[^*]|\*(?!/))*\*/ *\n|//[^\n]*\n|\n)*|(?<=[;,{\])]) // [^\n]*$", re.MULTILINE
)
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page. `tag` is its ETag, which changes with its content."""

    media_type: str
    tag: str
    plain: bytes
    gzipped: bytes


@cache
def assets() -> Mapping[str, Asset]:
    """Each file of the page by its path below `assets`; nothing else can be served."""
    found = {name: _read(name) for name in _names()}
    found[STYLE] = b"".join(found.pop(name) for name in STYLES)
    return {name: _asset(name, content) for name, content in found.items()}


def _names() -> list[str]:
    paths = sorted(path for path in ASSETS.rglob("*") if path.suffix in _TYPES)
    return [path.relative_to(ASSETS).as_posix() for path in paths]


def _read(name: str) -> bytes:
    content = (ASSETS / name).read_bytes()
    return content if name.startswith(VENDOR) else _FOR_READERS.sub(b"", content)


def frame(view: str, language: str) -> Asset:
    """The frame of the page for its first view: a browser loads the modules of that one and the words of a language.

    It loads them at once, not one level of imports after another. The page itself loads what else it needs.
    """
    others = tuple(f"{each}/" for each in VIEWS if each != view)
    modules = (name for name in assets() if name.endswith(".js") and not name.startswith(others))
    wanted = (name for name in modules if name.startswith(f"{WORDS}{language}") or not name.startswith(WORDS))
    links = "\n".join(f'<link rel="modulepreload" href="page/{name}">' for name in wanted)
    return _asset(INDEX, assets()[INDEX].plain.replace(_MODULES_HERE, links.encode()))


def _asset(name: str, content: bytes) -> Asset:
    # A weak tag, since both forms share it.
    tag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Asset(_TYPES[Path(name).suffix], tag, content, gzip.compress(content, 9, mtime=0))
