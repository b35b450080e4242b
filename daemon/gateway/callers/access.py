"""Finds out who sends a request, and what that caller may do.

A route names what it needs: `caller: Reader`, `caller: Submitter` or `caller: Admin`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from daemon.gateway.answering.problems import Problem
from daemon.gateway.callers.scopes import SCOPES, Scope

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Caller:
    """A sender of requests. `tenant` is None for a caller on this machine that needs no key: it may name any tenant."""

    name: str
    tenant: str | None
    scopes: frozenset[Scope]

    @property
    def signature(self) -> str | None:
        """The name under a caller's orders; None for a caller without a key."""
        return None if self.tenant is None else self.name

    def may(self, scope: Scope) -> bool:
        """`admin` includes the other scopes, and `submit` includes `read`."""
        return bool(self.scopes & _GIVES[scope])

    def tenant_for(self, wanted: str | None) -> str:
        """The tenant of a request whose body or parameter names `wanted`. Raises Problem for a foreign one."""
        if self.tenant is None or (wanted is not None and self.may("admin")):
            return (self.tenant or DEFAULT_TENANT) if wanted is None else wanted
        if wanted not in (None, self.tenant):
            raise Problem(
                403, "wrong_tenant", "This key belongs to another tenant; leave `tenant` out.", field="tenant"
            )
        return self.tenant


_GIVES: dict[Scope, frozenset[Scope]] = {
    "read": frozenset(SCOPES),
    "submit": frozenset({"submit", "admin"}),
    "admin": frozenset({"admin"}),
}
LOCAL = Caller("local", None, frozenset(SCOPES))


def may(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """The dependency of a route that needs `scope`. Raises Problem: 401 without a valid key, 403 without the scope."""

    # A coroutine, since FastAPI sends each plain function of a dependency to a thread.
    async def check(request: Request) -> Caller:
        caller: Caller = await request.app.state.gateway.keyring.caller_of(request)
        if not caller.may(scope):
            raise Problem(403, "missing_scope", f"This key lacks the scope `{scope}`.", field=scope)
        return caller

    return check


Reader = Annotated[Caller, Depends(may("read"))]
Submitter = Annotated[Caller, Depends(may("submit"))]
Admin = Annotated[Caller, Depends(may("admin"))]

# For endpoints that need a scope, and not the caller.
READS, ADMINISTERS = Depends(may("read")), Depends(may("admin"))
