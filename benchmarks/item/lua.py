"""The Lua scripts of the product by the hashes under which a server knows them."""

from __future__ import annotations

from itertools import chain

from daemon.queue import steps
from limiter.script import LuaScript
from limiter.scripts import grants, permits, refusals, states

_NAMED = chain(
    vars(steps)["_SCRIPTS"].items(), *(vars(part).items() for part in (grants, permits, refusals, states))
)
SCRIPT_NAMES = {script.sha: script.name for _, script in _NAMED if isinstance(script, LuaScript)}
