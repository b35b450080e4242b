"""Explains an error of Redis: whether it passes by itself, and a sentence for people."""

from __future__ import annotations

from collections.abc import Sequence

from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from pixmill.redaction import redact

# The errors of a lost or restarting server; the command may or may not have run.
CONNECTION_FAULTS = (RedisConnectionError, RedisTimeoutError, OSError)

NO_COMMON_SLOT = (
    'Redis is a cluster, and our keys share no slot: write redis.prefix in braces, as in "{pixmill}", and '
    "redis+cluster:// in redis.url."
)
OTHER_NODE = (
    "Redis is a node of a cluster which does not have our keys: write redis+cluster:// in redis.url, and redis.prefix "
    'in braces, as in "{pixmill}".'
)
# Classes, texts and the sentence. Some errors have no class of their own, and before Redis 7 the error of a script only
# quotes that of its command. The first match counts.
_REFUSALS: Sequence[tuple[tuple[type[RedisError], ...], tuple[str, ...], str]] = (
    (
        (OutOfMemoryError,),
        ("OOM command not allowed",),
        "Redis has no memory left and refuses to write: raise its maxmemory, or remove foreign data. Nothing is "
        "accepted or sent until then, and nothing is lost.",
    ),
    (
        (ReadOnlyError,),
        ("-READONLY", "read only replica"),
        "Redis is a read-only replica here: let redis.url lead to the master.",
    ),
    ((), ("MISCONF",), "Redis cannot save its data and refuses to write: look at its log and at its disk."),
    (
        (),
        ("NOREPLICAS",),
        "Redis has lost the replicas without which it refuses to write (min-replicas-to-write): bring them back.",
    ),
    (
        (ClusterCrossSlotError,),
        ("non local key", "do not hash to the same slot", "CROSSSLOT"),
        NO_COMMON_SLOT,
    ),
    ((MovedError,), ("-MOVED",), OTHER_NODE),
    (
        (AskError, TryAgainError),
        ("-ASK", "TRYAGAIN"),
        "The cluster is moving our keys to another node; work goes on when that is done.",
    ),
    (
        (ClusterDownError,),
        ("CLUSTERDOWN", "MASTERDOWN"),
        "The cluster does not serve our keys now: one of its masters is missing.",
    ),
    ((BusyLoadingError,), ("LOADING",), "Redis is reading its data from the disk."),
    ((), ("BUSY Redis is busy", "BUSY Valkey is busy"), "Redis is held up by a script that runs too long."),
    (
        (NoPermissionError,),
        ("NOPERM", "ACL failure in script", "The user executing the script"),
        "The ACL does not let our Redis user do what is needed: `pixmill doctor` names it, and "
        "deploy/redis/users.acl has it all.",
    ),
)


def passes(error: BaseException) -> bool:
    """Whether the same command can succeed later by itself: Redis is away, or refuses now.

    An error that an operator must fix, such as an ACL, passes too: a result that was paid for is kept until then.
    """
    return isinstance(error, CONNECTION_FAULTS) or _refusal(error) is not None


def needs_other_settings(error: BaseException) -> bool:
    """Whether this Redis can never serve the present configuration."""
    return _refusal(error) in (NO_COMMON_SLOT, OTHER_NODE)


def never_works(error: BaseException) -> bool:
    """Whether this Redis can never serve the present configuration, so waiting is in vain."""
    return needs_other_settings(error) or "DB index is out of range" in str(error)


def lost(error: BaseException) -> str:
    """The words of a connection that failed, with the remedy if one side speaks TLS and the other does not."""
    words = redact(str(error))
    if "WRONG_VERSION_NUMBER" in words or "record layer failure" in words:
        return f"{words}; if this port does not speak TLS, write redis:// instead of rediss://"
    if "reset by peer" in words or "closed by server" in words:
        return f"{words}; if this port wants TLS, write rediss:// instead of redis://"
    return words


def in_words(error: BaseException) -> str:
    """A sentence for people: the problem with Redis, and its remedy."""
    if isinstance(error, AuthenticationError):
        return f"Redis refuses us ({redact(str(error))}): are user and password in redis.url right?"
    if (refusal := _refusal(error)) is not None:
        return refusal
    if isinstance(error, CONNECTION_FAULTS):
        return f"Redis does not answer ({lost(error)})."
    if never_works(error):
        return "Redis has no database of the number in redis.url: write one that it has, such as /0."
    return f"Redis refuses a command ({redact(str(error))})."


def _refusal(error: BaseException) -> str | None:
    if not isinstance(error, RedisError):
        return None
    text = str(error)
    for classes, marks, sentence in _REFUSALS:
        if isinstance(error, classes) or any(mark in text for mark in marks):
            return sentence
    return None
