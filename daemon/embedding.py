"""The whole daemon in the process of a producer, for `pixmill.Client.local`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import structlog

from daemon.compat.aliases import alias_source
from daemon.service import EXPECTED_ERRORS, up
from daemon.settings import Listen, load_settings
from daemon.telemetry.logs import configure_own_logs

log = structlog.get_logger(__name__)


def has_account(config: Path | None, environ: Mapping[str, str]) -> bool:
    """Whether the configuration has an account: without one, `embedded` makes the pictures of a simulator.

    Raises EmbeddingError for a configuration that is wrong.
    """
    try:
        return bool(load_settings(config, environ=environ, offers=[alias_source]).settings.credentials)
    except EXPECTED_ERRORS as error:
        raise EmbeddingError(str(error)) from error


class EmbeddingError(RuntimeError):
    """The daemon cannot start; the text is the sentence that `pixmill up` prints."""


@asynccontextmanager
async def embedded(config: Path | None, data_dir: Path) -> AsyncIterator[tuple[str, str]]:
    """Run what `pixmill up` runs, without its gateway; yields the address and the prefix of its Redis.

    Its metrics listen on a free port, unless the configuration names one. Raises EmbeddingError.
    """
    if not structlog.is_configured():  # a program's own logging stays as it is
        configure_own_logs(level="warning")
    async with AsyncExitStack() as stack:
        try:
            loaded = load_settings(config, offers=[alias_source])
            settings = loaded.settings
            if loaded.source("metrics.listen") == "default":
                metrics = settings.metrics.model_copy(update={"listen": Listen("127.0.0.1:0")})
                settings = settings.model_copy(update={"metrics": metrics})
            if not settings.credentials:
                log.warning("no account is configured: a simulator makes the pictures")
            running = await stack.enter_async_context(up(settings, data_dir=data_dir))
        except EXPECTED_ERRORS as error:
            raise EmbeddingError(str(error)) from error
        yield running.redis_url, settings.redis.prefix
