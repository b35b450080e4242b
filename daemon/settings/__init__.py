"""The configuration: what may be set, where values come from, and what is wrong with them.

Values come from flags, the environment (`PIXMILL_REDIS__URL`), pixmill.toml and the defaults, in that order.
"""

from daemon.settings.load import LoadedSettings, load_settings
from daemon.settings.model import (
    Credential,
    GatewaySettings,
    MetricsSettings,
    NetworkSettings,
    RedisSettings,
    RetentionSettings,
    Route,
    Settings,
    SettingsError,
    StorageSettings,
    WebhookSecret,
    WorkerSettings,
)
from daemon.settings.values import Listen, SecretUrl, masked_url, parse_duration, parse_size

__all__ = [
    "Credential",
    "GatewaySettings",
    "Listen",
    "LoadedSettings",
    "MetricsSettings",
    "NetworkSettings",
    "RedisSettings",
    "RetentionSettings",
    "Route",
    "SecretUrl",
    "Settings",
    "SettingsError",
    "StorageSettings",
    "WebhookSecret",
    "WorkerSettings",
    "load_settings",
    "masked_url",
    "parse_duration",
    "parse_size",
]
