"""The pictures of a batch or a job as files: safe names, a manifest, into a directory or a ZIP file.

A file that is there already with the right content is not fetched again, so saving again adds only missing files.
"""

from __future__ import annotations

import asyncio
import csv
import errno
import hashlib
import io
import json
import os
import re
import secrets
import unicodedata
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from daemon.files.prompt_template import PromptTemplate
from pixmill.records.records import ItemView, View

AT_A_TIME = 8
NAME_BYTES = 120
MANIFEST, TABLE = "manifest.json", "manifest.csv"
WENT = "missing.txt"  # in an archive that is sent: the pictures that went after its manifest was written


class Store(Protocol):
    """The part of the object store that an archive needs."""

    async def get(self, key: str, /) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """One stored picture and the file that it becomes."""

    item: ItemView
    image: dict[str, Any]
    file: str


@dataclass(frozen=True, slots=True)
class Saved:
    """The number of files, and a sentence for each picture that the store lacks."""

    files: int
    problems: tuple[str, ...]


def pictures_of(items: Sequence[ItemView], names: PromptTemplate | None = None) -> list[Picture]:
    """Every picture with its own file name, unique also on systems that ignore case.

    `names` makes the name of an item's id and metadata, with a `/` between folders.
    """
    unique = _Names(MANIFEST, TABLE, WENT)
    pictures = []
    for item in items:
        name = item.id if names is None else names.fill(_values(item, names.names))
        for k, image in enumerate(item.images):
            stem = name if k == 0 else f"{name}.{k}"
            safe = "/".join(map(safe_name, stem.split("/"))) if names is not None else safe_name(stem)
            pictures.append(Picture(item, image, unique.name(safe, _extension(image["key"]))))
    return pictures


def _values(item: ItemView, names: Sequence[str]) -> dict[str, str]:
    """The values that a template of names may use. A `/` in a value makes no folder."""
    known = {"id": item.id, "job": item.job, **item.metadata}
    return {name: known.get(name, "").replace("/", "_") for name in names}


async def save_directory(
    store: Store, view: View, items: Sequence[ItemView], out: Path, on_saved: Callable[[int, int], None]
) -> Saved:
    """Write `{item}.{ext}` and manifest.json into `out`, which is created; a file is there whole or not at all."""
    await asyncio.to_thread(make_directory, out)
    pictures = pictures_of(items)
    missing = [
        picture for picture in pictures if not await asyncio.to_thread(_is_there, out / picture.file, picture)
    ]
    saved = await _save(
        store, missing, len(pictures), lambda name, data: write_whole(out / name, data), on_saved
    )
    write_whole(out / MANIFEST, manifest(view, items, pictures))
    return saved


async def save_zip(
    store: Store, view: View, items: Sequence[ItemView], file: Path, on_saved: Callable[[int, int], None]
) -> Saved:
    """Write one ZIP file with the same content; it appears under its name when it is complete."""
    pictures = pictures_of(items)
    # Pictures are compressed already.
    with _whole(file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        saved = await _save(store, pictures, len(pictures), archive.writestr, on_saved)
        archive.writestr(MANIFEST, manifest(view, items, pictures))
    return saved


async def _save(
    store: Store,
    pictures: Sequence[Picture],
    total: int,
    write: Callable[[str, bytes], None],
    on_saved: Callable[[int, int], None],
) -> Saved:
    """Fetch and write the missing pictures of `total`, a few at a time, in their order."""
    done, problems = total - len(pictures), []
    for start in range(0, len(pictures), AT_A_TIME):
        chunk = pictures[start : start + AT_A_TIME]
        fetched = await asyncio.gather(*(fetch(store, picture) for picture in chunk))
        for picture, data in zip(chunk, fetched, strict=True):
            if isinstance(data, str):
                problems.append(data)
                continue
            await asyncio.to_thread(write, picture.file, data)
            done += 1
            on_saved(done, total)
    return Saved(done, tuple(problems))


def manifest(
    view: View, items: Sequence[ItemView], pictures: Sequence[Picture], lacking: Collection[str] = ()
) -> bytes:
    """JSON about each file, and about the items that have none. `lacking` are the files that the store has not."""
    files: dict[str, list[str]] = {}
    for picture in pictures:
        files.setdefault(str(picture.item.uid), []).append(picture.file)
    rows = [
        {**item.as_dict(), "files": files.get(str(item.uid), []), "prompt": item.spec.get("prompt")}
        for item in items
    ]
    whole = {**view.as_dict(), "items": rows, **({"missing": list(lacking)} if lacking else {})}
    return json.dumps(whole, ensure_ascii=False, indent=1).encode()


def table(pictures: Sequence[Picture], lacking: Collection[str] = ()) -> bytes:
    """The same as a CSV for spreadsheets: a row for each picture."""
    columns = sorted({name for picture in pictures for name in picture.item.metadata})
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(map(_cell, ["file", "item", "missing", "width", "height", "prompt", *columns]))
    for picture in pictures:
        item, image = picture.item, picture.image
        missing = "yes" if picture.file in lacking else ""
        facts = [picture.file, item.id, missing, image["width"], image["height"], item.spec.get("prompt")]
        rows.writerow(map(_cell, [*facts, *(item.metadata.get(name, "") for name in columns)]))
    return "\ufeff".encode() + text.getvalue().encode()  # the mark tells Excel that it is UTF-8


def _cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = "" if value is None else str(value)
    # Some programs skip blanks before a formula, and some take the wide forms of its signs.
    return f"'{text}" if text.startswith(("\t", "\r", "\n")) or text.lstrip().startswith(_SIGNS) else text


_SIGNS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def safe_name(text: str) -> str:
    """A file name that every system takes, of at most 120 bytes."""
    text = unicodedata.normalize("NFC", text)
    text = _UNSAFE.sub("_", text).strip(" .") or "_"
    text = text.encode()[:NAME_BYTES].decode("utf-8", "ignore").rstrip(" .") or "_"
    return f"_{text}" if text.split(".")[0].upper() in _RESERVED else text


_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


class _Names:
    """Names that differ on systems that ignore case. Equal ones are numbered, each without a look at all before it."""

    def __init__(self, *taken: str) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def name(self, stem: str, extension: str) -> str:
        wanted = name = f"{stem}{extension}"
        number = self._last.get(wanted.casefold(), 1)
        while name.casefold() in self._taken:
            number += 1
            name = f"{stem}-{number}{extension}"
        self._last[wanted.casefold()] = number
        self._taken.add(name.casefold())
        return name


def _extension(key: str) -> str:
    suffix = Path(key).suffix
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else ""


async def fetch(store: Store, picture: Picture) -> bytes | str:
    """The bytes of a picture, or a sentence with the reason why there are none."""
    key = picture.image["key"]
    data = await store.get(key)
    if data is None:
        return f'{picture.item.id}: there is no object "{key}" in this store; is it the store that the workers use?'
    if (await asyncio.to_thread(hashlib.sha256, data)).hexdigest() != picture.image["sha256"]:
        return f'{picture.item.id}: the object "{key}" is not the picture of the record (its sha256 differs).'
    return data


def _is_there(path: Path, picture: Picture) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == str(picture.image["sha256"])
    except OSError:
        return False


def make_directory(out: Path) -> None:
    """Create a directory for pictures; raises OSError, which names it, if no file can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise _fault(errno.ENOTDIR, out) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise _fault(errno.EACCES, out)


def _fault(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, and never through a link."""
    with _whole(path) as part:
        part.write(data)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its name once it is written; nothing is left of a failed one.

    Its name is random and it is never opened through a link: others may write to the directory as well. Raises OSError,
    which names `path`.
    """
    if path.is_dir():
        raise _fault(errno.EISDIR, path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    with _named(path):
        descriptor = os.open(part, _NEW, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        # Windows renames no open file.
        with _named(path):
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error name the file that was wanted: nobody knows its part."""
    try:
        yield
    except OSError as error:
        raise _fault(error.errno or errno.EIO, path) from None


# Windows has its own flag for bytes, and no links to follow without special rights.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
