"""Which errors are expected, and the sentence and exit code of each; anything else is a bug and shows itself."""

from __future__ import annotations

from collections.abc import Callable

from redis.exceptions import RedisError

from daemon.broker.errors import CONNECTION_FAULTS, in_words
from daemon.cli.exits import FAILED, USAGE, CommandError
from daemon.client import NotRunningError, RejectedError
from daemon.client.batch_file import BatchFileError
from daemon.contract import Rejection
from daemon.settings import SecretUrl, SettingsError, masked_url
from providers.errors import redact


def explained(error: Exception, redis_url: Callable[[], SecretUrl | None]) -> CommandError | None:
    """The error as people should read it; None for one that nobody expects."""
    match error:
        case CommandError():
            return error
        case SettingsError() | BatchFileError():
            return CommandError(str(error), USAGE)
        case Rejection():
            # Found before anything was sent.
            return CommandError(error.message, USAGE, code=error.code, field=error.field)
        case RejectedError():
            return CommandError(str(error), FAILED, code=error.code, field=error.field)
        case NotRunningError():
            return CommandError(str(error), FAILED)
        case RedisError():
            return CommandError(_redis(error, redis_url()), FAILED, code="redis")
        case OSError() if error.filename is not None:
            return CommandError(f"{error.filename}: {error.strerror}.", USAGE)
        case OSError() if isinstance(error, CONNECTION_FAULTS):
            return CommandError(_redis(error, redis_url()), FAILED, code="redis")
    from daemon.storage.object_store import StorageError

    return CommandError(str(error), FAILED, code="storage") if isinstance(error, StorageError) else None


def _redis(error: Exception, url: SecretUrl | None) -> str:
    where = masked_url(url.reveal()) if url is not None else "the Redis of `pixmill up`"
    if isinstance(error, CONNECTION_FAULTS):
        return f"{where} does not answer ({redact(str(error))}). Is it running, and is the address right?"
    return f"{where} refused the command. {in_words(error)}"
