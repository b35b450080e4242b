"""The Python client of Pixmill: pictures from image-generation APIs, at the speed that your accounts allow.

    import pixmill

    with pixmill.SyncClient("redis://localhost:6379/0") as client:
        for result in client.generate_batch(["a red kettle", "a blue kettle"]):
            print(result.id, result.state, result.url or result.message)

Only the names below are public; the modules are not. They are imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixmill.api.client import Client
    from pixmill.api.environment import create_client_from_env, generate_batch_images
    from pixmill.api.sync_client import SyncClient
    from pixmill.api.tasks import BatchStatistics, GenerationResult, GenerationTask, batch_statistics
    from pixmill.errors import (
        AccessError,
        NotFoundError,
        NotInstalledError,
        NotRunningError,
        NotTakenError,
        OutputError,
        PixmillError,
        RejectedError,
        UnavailableError,
    )
    from pixmill.results import Event, Result, Status

__all__ = [
    "AccessError",
    "BatchStatistics",
    "Client",
    "Event",
    "GenerationResult",
    "GenerationTask",
    "NotFoundError",
    "NotInstalledError",
    "NotRunningError",
    "NotTakenError",
    "OutputError",
    "PixmillError",
    "RejectedError",
    "Result",
    "Status",
    "SyncClient",
    "UnavailableError",
    "batch_statistics",
    "create_client_from_env",
    "generate_batch_images",
]

_PLACES = {
    "Client": "api.client",
    "SyncClient": "api.sync_client",
    "create_client_from_env": "api.environment",
    "generate_batch_images": "api.environment",
    "BatchStatistics": "api.tasks",
    "GenerationResult": "api.tasks",
    "GenerationTask": "api.tasks",
    "batch_statistics": "api.tasks",
    "Event": "results",
    "Result": "results",
    "Status": "results",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pixmill' has no attribute {name!r}")
    found = getattr(import_module(f"pixmill.{_PLACES.get(name, 'errors')}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
