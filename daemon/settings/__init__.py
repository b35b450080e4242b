"""The configuration: what may be set, where values come from, and what is wrong with them.

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
