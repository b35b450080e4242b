"""Routes: each names a provider account, a model, and the quotas that it spends.

Producers name routes, never addresses or credentials; everything else about them is configuration. A route also knows
whether this replica reaches its provider. A network belongs to a machine, so each replica keeps that for itself: one
without a way out stops none of the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import orjson

from daemon.settings import Settings, SettingsError
from limiter.quota.quota import Quota
from pixmill.broker.backoff import pause_s
from pixmill.contract import Job, Rejection
from pixmill.text import nearest
from providers.base import InputImage, Provider, Request
from providers.errors import ProviderError
from providers.http.addresses import check_url
from providers.http.proxies import environment_problems
from providers.registry import create_provider

LONGEST_PAUSE_S: Final = 30.0
# The next call tries after this time if nothing is heard of the one before it. A connection takes 10 s at most.
TURN_S: Final = 15.0
# Without a call for this time after the last pause, nobody knows, and an idle route must not alert for ever.
FORGOTTEN_S: Final = 120.0


class Reach:
    """The way to one account, shared by its routes. Only calls of which no byte was sent count as failures."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_s: Callable[[int, float], float] = pause_s,
    ) -> None:
        self._failures = 0
        self.why = ""  # the last failure, as a sentence
        self._clock = clock
        self._pause_s = pause_s
        self._next_at = 0.0
        self._turn: Turn | None = None  # of the call that tries now

    @property
    def failures(self) -> int:
        """Failures in a row; 0 again some time after the last one, though no call has shown it."""
        return self._failures if self._clock() < self._next_at + FORGOTTEN_S else 0

    @property
    def lost(self) -> bool:
        """Whether the last call could not be sent, a short time ago."""
        return self.failures > 0

    @property
    def wait_s(self) -> float:
        """Seconds until the next call may try, 0 while the provider is reached."""
        return max(0.0, self._next_at - self._clock()) if self.lost else 0.0

    def take_turn(self) -> Turn | None:
        """The turn of a call that may begin now. While the provider is not reached, there is one a pause; else None."""
        if self.wait_s:
            return None
        turn = Turn(self)
        self._turn = None
        if self.lost:
            self._turn, self._next_at = turn, self._clock() + TURN_S
        return turn

    def failed(self, why: str) -> None:
        """Note a call of which nothing was sent. Calls that fail together count once."""
        if self.wait_s and self._turn is None:
            return
        self._failures = self.failures + 1
        self.why = why
        self._turn = None
        self._next_at = self._clock() + self._pause_s(self._failures - 1, LONGEST_PAUSE_S)

    def give_back(self, turn: Turn) -> None:
        """End a turn. If it is still the one of the try, the next call may try at once."""
        if self._turn is turn:
            self._turn, self._next_at = None, min(self._next_at, self._clock())

    def reached(self) -> None:
        """Note a call that leaves on an open connection."""
        self._failures, self._turn = 0, None


class Turn:
    """The turn of one call to try the way to its account. It ends with the call's run, and by itself after TURN_S."""

    def __init__(self, way: Reach) -> None:
        self._way = way

    def ended(self) -> None:
        """Note the end of the run. A call that neither left nor failed lets the next one try at once."""
        self._way.give_back(self)


@dataclass(eq=False, slots=True)
class Route:
    """One way to make pictures. `timeout_s` bounds one provider call, from the request to its last byte.

    `quotas` are the quotas in force: the quota book replaces the tuple when an operator sets a limit. Their names and
    number never change. Code that needs the same limits at two moments must keep the tuple.
    """

    name: str
    provider: Provider
    model: str
    quotas: tuple[Quota, ...] = ()
    timeout_s: float = 180.0
    equals: tuple[str, ...] = ()  # `any`: it has no account, and the provider and model of the first of these
    spares: tuple[str, ...] = ()  # `fallback`
    reach: Reach = field(default_factory=Reach)  # the same for all routes of an account

    @property
    def unreachable(self) -> str | None:
        """The reason that holds the route back while its provider cannot be reached, for people; else None."""
        return f"provider:{self.provider.name} unreachable" if self.reach.lost else None


class UnknownAccountError(LookupError):
    """A task is at the account of a route that is not configured."""

    def __init__(self, route: str) -> None:
        super().__init__(
            f'The provider has its task, bought through the route "{route}", which is not configured here. '
            "Configure that route again, then retry the item: its task is polled, and nothing is bought."
        )


class Routes(Mapping[str, Route]):
    """The configured routes, with free checks: does the route exist, and can it make this picture?

    The queue of a route is served by its own account or by those of its equals, and by its spares while these are down.
    """

    def __init__(self, routes: Collection[Route], allow_hosts: Collection[str] = ()) -> None:
        self._routes = {route.name: route for route in routes}
        self._allow_hosts = frozenset(allow_hosts)

    def __getitem__(self, name: str) -> Route:
        return self._routes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def first(self, name: str) -> list[Route]:
        """The routes whose accounts serve the queue of a route at all times: itself, or its equals."""
        route = self._routes[name]
        return [self._routes[each] for each in route.equals] or [route]

    def spares(self, name: str) -> list[Route]:
        """The routes that also serve it while those of `first` are down, in their order."""
        return [self._routes[each] for each in self._routes[name].spares]

    def is_shared(self, name: str) -> bool:
        """Whether other accounts than its own may serve the queue of a route."""
        return bool(self._routes[name].equals or self._routes[name].spares)

    def of_receipt(self, receipt: bytes, route: Route) -> Route:
        """The route whose account has the task of a receipt of an item of `route`.

        Raises UnknownAccountError: only that account knows the task, and another one would report it as lost.
        """
        via = orjson.loads(receipt).get("route")
        if via is None:
            return self.first(route.name)[0] if route.equals else route
        if via not in self._routes:
            raise UnknownAccountError(str(via))
        return self._routes[via]

    def quotas(self) -> dict[str, tuple[Quota, ...]]:
        """The quotas in force at this moment, by route."""
        return {name: route.quotas for name, route in self._routes.items()}

    def check(self, job: Job) -> None:
        """Refuse a job that cannot work, before anything is queued or paid; raises Rejection."""
        refusal = partial(Rejection, tenant=job.tenant, ident=job.id)
        route = self._routes.get(job.route)
        if route is None:
            near = nearest(job.route, self._routes)
            known = ", ".join(self._routes) or "none"
            hint = f'did you mean "{near}"?' if near else f"configured are {known}."
            raise refusal("unknown_route", f'There is no route "{job.route}"; {hint}', field="route")
        for index, image in enumerate(job.inputs or ()):
            if image.url is not None and (problem := check_url(image.url, self._allow_hosts)) is not None:
                raise refusal("unsupported", problem, field=f"inputs.{index}.url")
        try:
            check_request(job, route)
        except ProviderError as error:
            raise refusal("unsupported", error.message, field=error.field) from error


def check_request(job: Job, route: Route) -> None:
    """Raise ProviderError, free of charge, for a job that the route's provider cannot make."""
    request = request_of(job, route, tuple(InputImage(b"", "", image.role) for image in job.inputs or ()))
    # Picture k gets seed + k, and the first pictures must not be paid before the last one is refused.
    last = request if job.seed is None else replace(request, seed=job.seed + job.n - 1)
    for one in (request, last):
        route.provider.check(one)


def request_of(job: Job, route: Route, inputs: tuple[InputImage, ...]) -> Request:
    """The request to the provider. The id stays the same however often the job is delivered."""
    return Request(
        request_id=f"{job.tenant}/{job.id}",
        model=route.model,
        prompt=job.prompt,
        negative_prompt=job.negative_prompt,
        size=job.size,
        seed=job.seed,
        params=job.params or {},
        inputs=inputs,
        output_format=job.output.format,
        quality=job.output.quality,
    )


def refuse_environment(environ: Mapping[str, str]) -> None:
    """Raise SettingsError if variables for certificates and proxies allow no connection to any provider."""
    if problems := list(environment_problems(environ)):
        raise SettingsError(problems)


def build_routes(settings: Settings, environ: Mapping[str, str], *, for_calls: bool = True) -> Routes:
    """The routes of a configuration, with one provider object for each credential that a route uses.

    Without `for_calls` they only check jobs, and no secret needs to be there.

    Raises SettingsError: a missing secret, a malformed quota, an unknown provider, a proxy that cannot be used.
    """
    quotas = settings.parsed_quotas()
    refuse_environment(environ)
    problems: list[str] = []
    providers: dict[str, Provider] = {}
    calling = settings.calling_routes
    for name in dict.fromkeys(str(route.credential) for route in calling.values()):
        credential = settings.credentials[name]
        try:
            providers[name] = create_provider(
                credential.provider,
                base_url=credential.base_url,
                secrets=credential.resolve(environ) if for_calls else credential.placeholders(),
                options=credential.provider_options(),
            )
        except SettingsError as error:
            problems += [f"credentials.{name}: {problem}" for problem in error.problems]
        except ValueError as error:
            problems.append(f"credentials.{name}: {error}")
    if problems:
        raise SettingsError(problems)
    ways = {name: Reach() for name in providers}
    found: dict[str, Route] = {}
    for name, route in settings.routes.items():
        like = calling[route.any[0]] if route.any else route
        found[name] = Route(
            name=name,
            provider=providers[str(like.credential)],
            model=str(like.model),
            quotas=tuple(quotas[quota] for quota in route.quotas),
            timeout_s=route.provider_timeout,
            equals=tuple(route.any),
            spares=tuple(route.fallback),
            reach=ways[str(like.credential)],
        )
    return Routes(found.values(), settings.network.allow_hosts)
