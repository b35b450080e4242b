"""Recognises a failure whose cause is a lack of this machine: descriptors, memory or room on a disk.

Such a failure passes and says nothing of a picture, a job or a provider, so it must cost none of them anything.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

_LACKS = {
    errno.EMFILE: "this process has no file descriptor left",
    errno.ENFILE: "this machine has no file descriptor left",
    errno.ENOMEM: "this machine has no memory left",
    errno.ENOBUFS: "this machine has no memory left for connections",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # the object store's form


def lack_of(error: BaseException) -> str | None:
    """The lack behind `error`, in words; None if it has another cause. Errors that it replaced count too."""
    return next((lack for each in _chain(error, set()) if (lack := _own_lack(each))), None)


def _own_lack(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return _LACKS[errno.ENOMEM]
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "this machine starts no more threads"
    if isinstance(error, OSError):
        return _LACKS.get(error.errno or 0)
    if type(error).__module__.startswith("obstore") and (found := _OS_ERROR.search(str(error))):
        return _LACKS.get(int(found[1]))
    return None


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """The error, the members of a group, and the errors that it replaced."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for each in (*members, error.__cause__, error.__context__):
        yield from _chain(each, seen)
