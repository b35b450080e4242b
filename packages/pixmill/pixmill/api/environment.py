"""Clients from the environment, and a batch in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from pixmill.api.sync_client import SyncClient
from pixmill.api.tasks import GenerationResult, GenerationTask
from pixmill.errors import NotInstalledError, NotRunningError


def create_client_from_env(
    *,
    max_concurrent_jobs: int | None = None,
    max_retries: int | None = None,
    retry_delay: float | None = None,  # noqa: ARG001 - older callers pass it
    environ: Mapping[str, str] = os.environ,
) -> SyncClient:
    """A client of the gateway in PIXMILL_GATEWAY_URL (its key in PIXMILL_KEY), or of the Redis in PIXMILL_REDIS__URL.

    Without either it runs a daemon in this process, if pixmill-daemon is installed and pixmill.toml has an account: the
    daemon also reads the names of older clients, such as HUNYUAN_SECRET_ID. Raises NotRunningError if there is nothing
    to talk to, and for a daemon without an account, which would only simulate: that is `SyncClient.local()`.
    The limits are those of each later batch. `retry_delay` is taken and changes nothing: a daemon waits as long as the
    provider wishes, and its own waits grow.

    Example:

        with create_client_from_env(max_concurrent_jobs=2) as client:
            results = client.generate_batch_sync([GenerationTask("a red kettle")])
    """
    prefix = environ.get("PIXMILL_REDIS__PREFIX", "pixmill")
    if gateway := environ.get("PIXMILL_GATEWAY_URL"):
        client = SyncClient(gateway, key=environ.get("PIXMILL_KEY"))
    elif redis := environ.get("PIXMILL_REDIS__URL"):
        client = SyncClient(redis, prefix=prefix)
    else:
        client = _local()
    client.max_concurrent_jobs, client.max_retries = max_concurrent_jobs, max_retries
    return client


def _local() -> SyncClient:
    """A daemon in this process, with an account. Raises NotRunningError."""
    try:
        client = SyncClient.local()
    except NotInstalledError:
        raise NotRunningError(
            "Set PIXMILL_GATEWAY_URL (and PIXMILL_KEY) or PIXMILL_REDIS__URL, or install pixmill-daemon to "
            "make the pictures in this process."
        ) from None
    from daemon.embedding import EmbeddingError, has_account

    try:
        is_real = has_account(None, os.environ)
    except EmbeddingError as error:
        raise NotRunningError(f"The daemon cannot start: {error}") from None
    if not is_real:
        raise NotRunningError(
            "No account is configured: secrets in the environment are not enough. Describe the account in "
            "pixmill.toml, as `[credentials.main]` and `[routes.default]`; or set PIXMILL_GATEWAY_URL or "
            "PIXMILL_REDIS__URL. SyncClient.local() makes pictures of a simulator."
        )
    return client


def generate_batch_images(
    prompts: str | Sequence[str],
    output_dir: str,
    resolution: str | None = None,
    *,
    client: SyncClient | None = None,
    batch_id: str | None = None,
) -> list[GenerationResult]:
    """Make a picture of each prompt, in new files `image_001.png`, `image_002.png` … of `output_dir`.

    A text is one prompt. Without `client` it makes one from the environment, and closes it. Without `batch_id` each
    call is new work, and a picture whose file exists is not made.

    Example:

        results = generate_batch_images(["a red kettle", "a blue kettle"], "out", "1024:1024")
    """
    tasks = [
        GenerationTask(prompt, resolution, output_path=str(PurePath(output_dir, f"image_{number:03d}.png")))
        for number, prompt in enumerate([prompts] if isinstance(prompts, str) else prompts, 1)
    ]
    if client is not None:
        return client.generate_batch_sync(tasks, batch_id=batch_id)
    with create_client_from_env() as own:
        return own.generate_batch_sync(tasks, batch_id=batch_id)
