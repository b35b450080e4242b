"""Addresses of work, as answers name them: absolute, below the prefix under which the app is mounted."""

from __future__ import annotations

from fastapi import Request

from daemon.queue.views import GroupView, ItemView, View


class Links:
    """The addresses under one request's own base."""

    def __init__(self, request: Request) -> None:
        self._base = str(request.base_url).rstrip("/")

    def job(self, ident: str) -> str:
        return f"{self._base}/v1/jobs/{ident}"

    def task(self, ident: str) -> str:
        """The address where a client of asynchronous images polls."""
        return f"{self._base}/v1/images/tasks/{ident}"

    def batch(self, ident: str) -> str:
        return f"{self._base}/v1/batches/{ident}"

    def item(self, batch: str, ident: str) -> str:
        return f"{self.batch(batch)}/items/{ident}"

    def of(self, view: View) -> str:
        """The address of a record."""
        match view:
            case GroupView(kind="batch"):
                return self.batch(view.id)
            case ItemView(batch=str(batch)):
                return self.item(batch, view.id)
        return self.job(view.id)

    def image(self, item: ItemView, k: int) -> str:
        """The address of picture `k` of an item. Picture k of a job of several is the job's."""
        if item.batch is None and item.id != item.job:
            return f"{self.job(item.job)}/images/{item.id.rpartition('.')[2]}"
        return f"{self.of(item)}/images/{k}"
