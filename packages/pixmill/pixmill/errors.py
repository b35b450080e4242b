"""The errors of the package. Each is a sentence for people; `PixmillError` catches them all.

PixmillError
├── RejectedError        the job or batch is not allowed; nothing of it runs
├── NotFoundError        no work has that id, or its record has expired
├── AccessError          the key, the password or the rights do not suffice
├── UnavailableError     Redis or the gateway does not answer; send the same `id` again, it buys nothing twice
│   ├── NotRunningError  there is no address to talk to, or something else answers there
│   └── NotTakenError    it was sent, and no worker has taken it yet
├── OutputError          a picture could not be fetched, or its file not be written
└── NotInstalledError    the call needs the package pixmill-daemon
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class PixmillError(Exception):
    """The base of all errors of this package; also raised itself, for a client that is closed, or in a wrong place.

    Example:

        try:
            client.submit("a red kettle")
        except pixmill.PixmillError as error:
            print(error)
    """


class RejectedError(PixmillError):
    """A job or a batch that is not allowed; nothing of it runs. `code` and `field` are for programs.

    With `is_partial`, a worker refused one part of a large batch and took others. `Client` cancels these, except for
    `backlog_full` and an id of your own: the same batch sent later completes them.

    Example:

        try:
            client.submit({"promt": "a kettle"})
        except pixmill.RejectedError as error:
            print(error.code, error.field)
    """

    def __init__(
        self, message: str, code: str | None = None, field: str | None = None, *, is_partial: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.field = field
        self.is_partial = is_partial


class NotFoundError(PixmillError):
    """No work has that id here, or its record has expired.

    Example:

        try:
            client.results("spring")
        except pixmill.NotFoundError:
            client.submit_batch(rows, id="spring")
    """


class AccessError(PixmillError):
    """The gateway refuses the key, or Redis the user, the password or the command.

    Example:

        try:
            client.status("spring")
        except pixmill.AccessError:
            raise SystemExit("The key has expired.")
    """


class UnavailableError(PixmillError):
    """Redis or the gateway does not answer. The work may have arrived: send the same `id` again.

    `id` is that of the work, also where the client chose it; None for calls that send nothing.

    Example:

        try:
            client.generate_batch(prompts)
        except pixmill.UnavailableError as error:
            ident = error.id  # later, generate_batch(prompts, batch_id=ident) buys nothing twice
    """

    id: str | None = None


@contextmanager
def naming(ident: str) -> Iterator[None]:
    """Give an UnavailableError from inside the id of its work."""
    try:
        yield
    except UnavailableError as error:
        error.id = error.id or ident
        raise


class NotRunningError(UnavailableError):
    """There is no address to talk to, or something else answers there; the text names the remedy.

    Example:

        try:
            client = pixmill.create_client_from_env()
        except pixmill.NotRunningError as error:
            raise SystemExit(str(error))
    """


class NotTakenError(UnavailableError, TimeoutError):
    """The work was sent, and no worker has taken it in time. It stays there, and runs when a worker comes.

    Example:

        try:
            client.generate_batch(["a kettle"], batch_id="spring")
        except pixmill.NotTakenError:
            print("Is a worker running?")
    """


class OutputError(PixmillError):
    """A picture could not be fetched, or its file could not be written.

    Example:

        try:
            data = client.picture(result)
        except pixmill.OutputError as error:
            print(error)
    """


class NotInstalledError(PixmillError):
    """The call needs the package pixmill-daemon, which is not installed.

    Example:

        try:
            client = pixmill.SyncClient.local()
        except pixmill.NotInstalledError:
            client = pixmill.SyncClient("https://pixmill.example", key=key)
    """
