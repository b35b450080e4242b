"""Defines quotas: the kinds of limit, their TOML form, and published presets."""
