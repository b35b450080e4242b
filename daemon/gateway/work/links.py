"""Addresses of work, as answers name them: absolute, below the prefix under which the app is mounted."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fastapi import Request
from starlette.datastructures import URL

from daemon.gateway.callers.access import Caller
from pixmill.records.views import GroupView, ItemView, View

ORDERS = ("cancel", "retry", "explain")
OF_BATCHES = ("pause", "resume", "log")


def base_of(request: Request) -> str:
    """The address of the app as callers know it, without a slash at its end."""
    public: str | None = request.app.state.gateway.settings.gateway.public_url
    if public is not None:
        return public
    scope = request.scope
    host, server = request.headers.get("host"), scope.get("server")
    # Not `request.base_url`: that is the outermost app's.
    return _base(scope.get("scheme", "http"), host, tuple(server or ()), scope.get("root_path", ""))


@lru_cache(maxsize=64)
def _base(scheme: str, host: str | None, server: tuple[Any, ...], root_path: str) -> str:
    """The address of an app; kept, since all callers of a gateway name it by a few hosts."""
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    url = URL(scope={"scheme": scheme, "server": server or None, "path": "/", "headers": headers})
    return str(url.replace(path=root_path)).rstrip("/")


class Links:
    """The addresses under one request's own base; `query` goes to each of them, such as `?tenant=shop`."""

    def __init__(self, request: Request, query: str = "") -> None:
        self._base = base_of(request)
        self._query = query

    @classmethod
    def of_tenant(cls, request: Request, caller: Caller, tenant: str) -> Links:
        """Addresses that lead this caller to the work of a tenant, also where that is not its own."""
        return cls(request, "" if tenant == caller.tenant_for(None) else f"?tenant={tenant}")

    def task(self, ident: str) -> str:
        """The address where a client of asynchronous images polls."""
        return self._at("images", "tasks", ident)

    def job(self, ident: str, *below: object) -> str:
        return self._at("jobs", ident, *below)

    def batch(self, ident: str, *below: object) -> str:
        return self._at("batches", ident, *below)

    def item(self, batch: str, ident: str, *below: object) -> str:
        return self.batch(batch, "items", ident, *below)

    def of(self, view: View, *below: object) -> str:
        """The address of a record, or of something below it."""
        match view:
            case GroupView(kind="batch"):
                return self.batch(view.id, *below)
            case ItemView(batch=str(batch)):
                return self.item(batch, view.id, *below)
        return self.job(view.id, *below)

    def image(self, item: ItemView, k: int) -> str:
        """The address of picture `k` of an item. Picture k of a job of several is the job's."""
        if item.batch is None and item.id != item.job:
            return self.job(item.job, "images", item.id.rpartition(".")[2])
        return self.of(item, "images", k)

    def thumb(self, item: ItemView, k: int) -> str:
        """The address of the small form of a picture."""
        return f"{self.image(item, k)}{'&' if self._query else '?'}thumb=1"

    def urls(self, view: View) -> dict[str, Any]:
        """The addresses of a record and of what it can do; `images` are those of its pictures, made or not."""
        if isinstance(view, GroupView):
            return (
                self.batch_urls(view.id)
                if view.kind == "batch"
                else self.job_urls(view.id, view.counts.total)
            )
        if view.batch is None:
            return {**self.job_urls(view.id, 0), "images": [self.image(view, 0)]}
        urls = {name: self.of(view, name) for name in ("events", *ORDERS)}
        return {"self": self.of(view), **urls, "images": [self.image(view, 0)]}

    def job_urls(self, ident: str, pictures: int) -> dict[str, Any]:
        """The addresses of a job of its own."""
        urls = {name: self.job(ident, name) for name in ("events", *ORDERS)}
        images = [self.job(ident, "images", k) for k in range(pictures)]
        return {"self": self.job(ident), **urls, "images": images}

    def batch_urls(self, ident: str) -> dict[str, str]:
        """The addresses of a batch."""
        urls = {name: self.batch(ident, name) for name in ("items", "events", *ORDERS, *OF_BATCHES)}
        return {"self": self.batch(ident), **urls, "archive": self.batch(ident, "archive.zip")}

    def _at(self, *parts: object) -> str:
        return "/".join((f"{self._base}/v1", *map(str, parts))) + self._query
