"""The ways to an installation: its Redis, a gateway, or a daemon in this process. Each is a `Transport`."""
