"""How a command ends: its exit codes, the error that ends it early, and the sentence for each expected error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from daemon.settings import SecretUrl, SettingsError, masked_url
from pixmill.broker.errors import CONNECTION_FAULTS, in_words, lost
from pixmill.contract import Rejection

ALL_WELL, USAGE, PARTLY, FAILED, CANCELLED, INTERRUPTED = 0, 2, 3, 4, 5, 130


def words_of(error: OSError) -> str:
    """The file and what is wrong with it, without the number of the error."""
    reason = f"{error.strerror or error}."
    return reason if error.filename is None else f"{error.filename}: {reason}"


class CommandError(Exception):
    """Ends a command with a sentence and an exit code; `details` are more fields for JSON answers."""

    def __init__(self, message: str, exit_code: int = FAILED, **details: Any) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.details = details


def explained(error: Exception, redis_url: Callable[[], SecretUrl | None]) -> CommandError | None:
    """The error as people should read it; None for an unexpected one, which is a bug."""
    # Most commands end without an error, and services use no client.
    from daemon.files.batch_file import BatchFileError
    from daemon.storage.object_store import StorageError
    from pixmill.client import NotRunningError, RejectedError

    match error:
        case CommandError():
            return error
        case SettingsError() | BatchFileError():
            return CommandError(str(error), USAGE)
        case Rejection():  # found before anything was sent
            return CommandError(error.message, USAGE, code=error.code, field=error.field)
        case RejectedError():
            return CommandError(str(error), FAILED, code=error.code, field=error.field)
        case NotRunningError():
            return CommandError(str(error), FAILED)
        case StorageError():
            return CommandError(str(error), FAILED, code="storage")
        case OSError() if error.filename is not None:
            return CommandError(words_of(error), USAGE)
    if not isinstance(error, (RedisError, *CONNECTION_FAULTS)):
        return None
    url = redis_url()
    where = masked_url(url.reveal()) if url is not None else "the Redis of `pixmill up`"
    sentence = f"{where} refused the command. {in_words(error)}"
    if isinstance(error, CONNECTION_FAULTS):
        sentence = f"{where} does not answer ({lost(error)}). Is it running, and is the address right?"
    return CommandError(sentence, FAILED, code="redis")
