"""A route that takes little time to find the arguments of its endpoint."""

from __future__ import annotations

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

TEXTS = (str, str | None)
NEVER = (
    "header_params",
    "cookie_params",
    "body_params",
    "websocket_param_name",
    "http_connection_param_name",
    "response_param_name",
    "background_tasks_param_name",
    "security_scopes_param_name",
)


class PlainRoute(APIRoute):
    """A route whose endpoint takes `request`, what coroutines find by the request alone, and texts of the address.

    FastAPI looks at the kind of each argument anew with every request, which is an eighth of the CPU of a read.
    Raises TypeError for an endpoint or an option that needs more. `app.dependency_overrides` has no effect here.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if not _is_plain(self):
            raise TypeError(f"{self.name} is no endpoint for a plain route.")
        self.app = _answering(endpoint, self.dependant)


def _answering(endpoint: Callable[..., Any], takes: Dependant) -> ASGIApp:
    found: list[tuple[Any, Any]] = [(one.name, one.call) for one in takes.dependencies]
    parts = [text.name for text in takes.path_params]
    parameters = [(text.name, text.field_info.default) for text in takes.query_params]

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        arguments = {name: await find(request=request) for name, find in found}
        arguments |= {name: request.path_params[name] for name in parts}
        arguments |= {name: request.query_params.get(name, default) for name, default in parameters}
        response: Response = await endpoint(request=request, **arguments)
        await response(scope, receive, send)

    return answer


def _is_plain(route: APIRoute) -> bool:
    takes = route.dependant
    return (
        route.max_body_size is None
        and _takes_request(route.endpoint, takes)
        and all(_is_text(text) for text in (*takes.path_params, *takes.query_params))
        # Without a default, a parameter that is missing would be a 422.
        and all(isinstance(text.field_info.default, str | None) for text in takes.query_params)
        and all(_is_found_by_request(one) for one in takes.dependencies)
    )


def _takes_request(call: Callable[..., Any] | None, takes: Dependant) -> bool:
    is_alone = not any(getattr(takes, each) for each in NEVER)
    return iscoroutinefunction(call) and takes.request_param_name == "request" and is_alone


def _is_text(text: Any) -> bool:
    is_bare = text.alias == text.name and not text.field_info.metadata
    return is_bare and text.field_info.annotation in TEXTS


def _is_found_by_request(one: Dependant) -> bool:
    parts = (*one.dependencies, *one.path_params, *one.query_params)
    # A name is missing where the route names the dependency and its endpoint does not take it.
    return one.name is not None and _takes_request(one.call, one) and not parts
