"""PostgreSQL: one connection, its transactions, and the patience for a server that is away.

All that is written at a time is one transaction. Each takes one lock, so two mirrors never mix their writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import unquote

import asyncpg
import structlog

from daemon.broker.loops import until_it_works
from daemon.gateway.events.frames import START, Position
from daemon.mirror.rows import BatchRow, ItemRow
from daemon.settings import SecretUrl, SettingsError
from pixmill.records.keys import Uid, batch_gid
from pixmill.redaction import redact

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 5.0
COMMAND_TIMEOUT_S = 30.0
END_S = 10.0  # for the transaction under way, when this process stops

T = TypeVar("T")

# The data is refused, and would be again.
BadRowError: type[Exception] = asyncpg.DataError
_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# At the start these are faults of the configuration; later they pass, as after a failover.
_REFUSALS = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)


class Database:
    """Runs transactions on the server of `url`, one at a time; see `run`."""

    def __init__(self, url: SecretUrl) -> None:
        self._url = url
        self._connection: Any = None
        self._is_away = False

    async def prepare(self) -> None:
        """Wait for the server, and make the tables that it lacks. Raises SettingsError if it refuses us."""
        await self.run(Tables.create, is_start=True)

    async def run(self, work: Callable[[Tables], Awaitable[T]], *, is_start: bool = False) -> T:
        """Do `work` in one transaction, again and again while the server is away; it may be done twice.

        A transaction that has begun ends before a cancellation does. Raises BadRowError, and the errors of `work`.
        """

        def passes(error: Exception) -> bool:
            return isinstance(error, _AWAY) and not isinstance(error, BadRowError)

        def note(error: Exception, _: int) -> None:
            if is_start and isinstance(error, _REFUSALS):
                raise SettingsError(
                    [f"mirror.postgres cannot be used like this. {self._in_words(error)}"]
                ) from None
            if not self._is_away:
                log.warning("postgres does not serve us; waiting", error=self._in_words(error))
            self._is_away = True

        result = await until_it_works(lambda: _whole(self._transaction(work)), passes=passes, note=note)
        if self._is_away:
            log.info("postgres works again")
        self._is_away = False
        return result

    async def aclose(self) -> None:
        """Close the connection; a later transaction opens another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def _transaction(self, work: Callable[[Tables], Awaitable[T]]) -> T:
        try:
            if self._connection is None:
                self._connection = await self._connect()
            async with self._connection.transaction():
                await self._connection.execute("SELECT pg_advisory_xact_lock(hashtext('pixmill mirror'))")
                return await work(Tables(self._connection))
        except BadRowError:
            raise
        except _AWAY:
            await self.aclose()
            raise

    async def _connect(self) -> Any:
        # Poolers that lend a server for one transaction keep no prepared statements.
        try:
            return await asyncpg.connect(
                self._url.reveal(),
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=COMMAND_TIMEOUT_S,
                statement_cache_size=0,
            )
        except ValueError:  # its text may quote a part of the password
            raise SettingsError([_UNREADABLE]) from None

    def _in_words(self, error: Exception) -> str:
        """A sentence for people, without the password."""
        text = redact(str(error) or type(error).__name__)
        for secret in _secrets_of(self._url.reveal()):
            text = text.replace(secret, "***")
        is_refusal = isinstance(error, asyncpg.PostgresError) and not isinstance(
            error, asyncpg.PostgresConnectionError
        )
        return f"PostgreSQL {'refuses us' if is_refusal else 'does not answer'} ({text})."


_UNREADABLE = (
    "mirror.postgres cannot be read: write postgresql://user:password@host:5432/database, with `/`, `?`, `#`, `@` and "
    "`%` of a password written as %2F, %3F, %23, %40 and %25."
)


def _secrets_of(url: str) -> list[str]:
    """The password of a URL as it is written and as it is sent."""
    userinfo = url.partition("://")[2].rpartition("@")[0]
    password = userinfo.partition(":")[2]
    return [text for text in (password, unquote(password)) if text]


async def _whole(work: Awaitable[T]) -> T:
    """Let `work` end, even if the caller is cancelled meanwhile, for END_S at most."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=END_S)
        task.cancel()
        raise


class Tables:
    """The reads and writes of one transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def create(self) -> None:
        """Make what is not there; a user without the right to make tables may use those that are."""
        if await self._connection.fetchval("SELECT to_regclass('pixmill_progress')") is None:
            await self._connection.execute(files(__package__).joinpath("tables.sql").read_text("utf-8"))

    async def position(self, stream: str) -> Position:
        """How far this stream has been written."""
        row = await self._connection.fetchrow(
            "SELECT event_ms, event_seq FROM pixmill_position WHERE stream = $1", stream
        )
        return START if row is None else (row[0], row[1])

    async def note_position(self, stream: str, position: Position) -> None:
        await self._connection.execute(_NOTE_POSITION, stream, *position)

    async def items(self, uids: Collection[Uid]) -> dict[Uid, ItemRow]:
        """The rows of these items, those that there are."""
        found = await self._connection.fetch(_KNOWN, *_by_column(uids, 3))
        return {row.uid: row for row in (ItemRow(*values) for values in found)}

    async def put_items(self, rows: Sequence[ItemRow]) -> None:
        """Write rows, but none over a newer one."""
        if rows:
            await self._connection.execute(_PUT_ITEMS, *_by_column(rows, len(ItemRow._fields)))

    async def put_batches(self, rows: Sequence[BatchRow]) -> None:
        """Write rows, but none over a newer one."""
        if rows:
            await self._connection.execute(_PUT_BATCHES, *_by_column(rows, len(BatchRow._fields)))

    async def open_items(self, before: Position, most: int) -> list[Uid]:
        """Items that have not ended, by rows that are older than `before`."""
        return [Uid(*row) for row in await self._connection.fetch(_OPEN_ITEMS, *before, most)]

    async def running_items(self, before_ms: int, most: int) -> list[Uid]:
        """Items that run by rows of that time or before, the oldest first."""
        return [Uid(*row) for row in await self._connection.fetch(_RUNNING_ITEMS, before_ms, most)]

    async def open_batches(self, before: Position, most: int) -> list[str]:
        """The groups of batches that have not ended, by rows that are older than `before`."""
        return [batch_gid(*row) for row in await self._connection.fetch(_OPEN_BATCHES, *before, most)]

    async def lose(self, items: Collection[Uid], batches: Collection[str]) -> None:
        """Mark rows whose end was missed and cannot be found any more. A later event still changes them."""
        if items:
            await self._connection.execute(_LOSE_ITEMS, *_by_column(items, 3))
        if batches:
            names = [name.split("/", 1) for name in batches]
            await self._connection.execute(_LOSE_BATCHES, *_by_column(names, 2))


def _by_column(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """The values of each column, for `unnest`."""
    return [list(values) for values in zip(*rows, strict=True)] or [[] for _ in range(width)]


# Types as `unnest` needs them; JSON travels as text.
_ITEM_TYPES = (
    *["text"] * 5, "int", *["text"] * 5, *["float8"] * 3, *["timestamptz"] * 3, "int8", "int8", "bool",
)  # fmt: skip
_BATCH_TYPES = (*["text"] * 3, *["int"] * 10, "text", "timestamptz", "timestamptz", "int8", "int8", "bool")
_JSON = frozenset({"error", "images", "metadata", "cost"})


def _upsert(table: str, names: Sequence[str], types: Sequence[str], key: Sequence[str]) -> str:
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, 1))
    values = ", ".join(f"new.{name}::jsonb" if name in _JSON else f"new.{name}" for name in names)
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    return (
        f"INSERT INTO {table} AS old ({', '.join(names)}) SELECT {values} "  # noqa: S608 - names of ours
        f"FROM unnest({arrays}) AS new({', '.join(names)}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes} "
        "WHERE (old.event_ms, old.event_seq) < (excluded.event_ms, excluded.event_seq) OR "
        "(excluded.from_record AND (old.event_ms, old.event_seq) = (excluded.event_ms, excluded.event_seq))"
    )


_PUT_ITEMS = _upsert("pixmill_items", ItemRow._fields, _ITEM_TYPES, ("tenant", "batch", "item"))
_PUT_BATCHES = _upsert("pixmill_batches", BatchRow._fields, _BATCH_TYPES, ("tenant", "batch"))
_KNOWN = (
    f"SELECT {', '.join(ItemRow._fields)} FROM pixmill_items "  # noqa: S608 - names of ours
    "JOIN unnest($1::text[], $2::text[], $3::text[]) AS named(tenant, batch, item) USING (tenant, batch, item)"
)
_NOTE_POSITION = """
    INSERT INTO pixmill_position AS old VALUES ($1, $2, $3)
    ON CONFLICT (stream) DO UPDATE SET event_ms = excluded.event_ms, event_seq = excluded.event_seq
    WHERE (old.event_ms, old.event_seq) < (excluded.event_ms, excluded.event_seq)"""
_OPEN_ITEMS = """
    SELECT tenant, batch, item FROM pixmill_items
    WHERE state NOT IN ('succeeded', 'failed', 'cancelled', 'expired', 'unknown')
      AND (event_ms, event_seq) < ($1, $2)
    LIMIT $3"""
_RUNNING_ITEMS = """
    SELECT tenant, batch, item FROM pixmill_items
    WHERE state = 'running' AND event_ms <= $1 ORDER BY event_ms LIMIT $2"""
_OPEN_BATCHES = """
    SELECT tenant, batch FROM pixmill_batches
    WHERE state = 'running' AND (event_ms, event_seq) < ($1, $2)
    LIMIT $3"""
_LOSE_ITEMS = """
    UPDATE pixmill_items SET state = 'unknown'
    FROM unnest($1::text[], $2::text[], $3::text[]) AS named(tenant, batch, item)
    WHERE (pixmill_items.tenant, pixmill_items.batch, pixmill_items.item) = (named.tenant, named.batch, named.item)"""
_LOSE_BATCHES = """
    UPDATE pixmill_batches SET state = 'unknown'
    FROM unnest($1::text[], $2::text[]) AS named(tenant, batch)
    WHERE (pixmill_batches.tenant, pixmill_batches.batch) = (named.tenant, named.batch)"""
