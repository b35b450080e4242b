"""The configuration: its settings, the sources of their values, and their checks.

Values come from flags, the environment (`PIXMILL_REDIS__URL`), pixmill.toml and the defaults, in that order.
"""

from daemon.settings.load import LoadedSettings, load_settings
from daemon.settings.model import Credential, Route, Settings, SettingsError
from daemon.settings.values import Listen, SecretUrl, masked_url, parse_duration

__all__ = [
    "Credential",
    "Listen",
    "LoadedSettings",
    "Route",
    "SecretUrl",
    "Settings",
    "SettingsError",
    "load_settings",
    "masked_url",
    "parse_duration",
]
