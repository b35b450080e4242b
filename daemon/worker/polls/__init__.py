"""Waits for the tasks of providers: when to poll each, and how fast the account may be polled."""
