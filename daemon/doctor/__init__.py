"""Checks of everything that the daemon depends on."""
