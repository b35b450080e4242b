"""Holds the Lua scripts and the methods of `Limiter` that call them."""
