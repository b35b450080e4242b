"""Tasks of the simulator: their places in flight, their ends, their costs, and the addresses of pictures."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from providers.simulator import SimulatorSettings
from providers.simulator.drawing import Drawing
from providers.simulator.engine import Engine, QuotaExceededError
from providers.simulator.faults import AFTER_THE_DOOR, OF_TASKS, Fault, FaultKind
from providers.simulator.pictures import Pictures
from providers.simulator.settings import Rate
from providers.simulator.tasks import Charge, Task, Tasks, TaskState


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Rig:
    """An engine with its tasks, as a wire uses them."""

    def __init__(self, **settings: Any) -> None:
        given: dict[str, Any] = {"latency_s": (0.0, 0.0), "plain": True} | settings
        self.clock = Clock()
        self.engine = Engine(SimulatorSettings(**given), self.clock)
        self.pictures = Pictures(self.engine.settings, self.clock)
        self.tasks = Tasks(self.engine, self.pictures)

    def accept(self, prompt: str = "a mug", key: str = "k1", charge: Charge = Charge.DONE) -> Task:
        call = self.engine.ledger.arrive(key, prompt, prompt.encode(), 1)
        try:
            return self.tasks.accept(call, key, Drawing(prompt, 1, 32, 32, plain=True), charge=charge)
        except QuotaExceededError:
            self.engine.ledger.end(call)
            raise


@pytest.fixture
async def rig() -> AsyncIterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**settings: Any) -> Rig:
        made.append(Rig(**settings))
        return made[-1]

    yield make
    for each in made:
        await each.tasks.aclose()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition, at most 10 s."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.002)


async def test_a_task_holds_its_place_until_it_ends_not_until_it_was_answered(
    rig: Callable[..., Rig],
) -> None:
    one = rig(in_flight=1)
    one.engine.faults.add(Fault(FaultKind.TASK_STUCK, prompt="stuck"))
    one.accept("stuck", key="k2")
    first = one.accept()
    with pytest.raises(QuotaExceededError) as refused:
        one.accept()
    assert refused.value.refusal.quota == "in_flight"
    calls = list(one.engine.ledger.calls)[1:]
    assert [(call.task, call.refused) for call in calls] == [(first.number, ""), ("", "in_flight")]
    await until(lambda: first.over.is_set())
    await until(lambda: one.engine.ledger.in_flight == 1)
    second = one.accept()
    await until(lambda: second.over.is_set())
    with pytest.raises(QuotaExceededError):
        one.accept("another", key="k2")


@pytest.mark.parametrize(
    ("kind", "state", "billed"),
    [
        (None, TaskState.DONE, {Charge.ACCEPTED: 1, Charge.DONE: 1}),
        (FaultKind.TASK_FAILED, TaskState.FAILED, {Charge.ACCEPTED: 1, Charge.DONE: 0}),
        (FaultKind.TASK_MODERATED, TaskState.MODERATED, {Charge.ACCEPTED: 1, Charge.DONE: 0}),
    ],
)
@pytest.mark.parametrize("charge", list(Charge))
async def test_a_task_ends_as_its_fault_says_and_is_charged_as_its_provider_charges(
    rig: Callable[..., Rig],
    kind: FaultKind | None,
    state: TaskState,
    billed: dict[Charge, int],
    charge: Charge,
) -> None:
    one = rig()
    if kind is not None:
        one.engine.faults.add(Fault(kind))
    task = one.accept(charge=charge)
    assert one.tasks.poll(task.number, "k1") is task
    await until(lambda: task.over.is_set())
    assert (task.state, one.engine.ledger.billed()) == (state, billed[charge])


async def test_nobody_else_can_poll_a_task_and_a_lost_one_is_unknown(rig: Callable[..., Rig]) -> None:
    one = rig()
    one.engine.faults.add(Fault(FaultKind.TASK_LOST, prompt="lost"))
    task, lost = one.accept(), one.accept("lost")
    assert one.tasks.poll(task.number, "k2") is None
    assert one.tasks.poll("123", "k1") is None
    assert one.tasks.poll(lost.number, "k1") is None
    await until(lambda: lost.over.is_set())
    assert lost.call.billed == 1
    assert one.engine.ledger.polls == 3


async def test_polls_have_a_rate_of_their_own(rig: Callable[..., Rig]) -> None:
    one = rig(requests=Rate(1, 60), polls=Rate(2, 1))
    task = one.accept()
    for _ in range(2):
        one.tasks.poll(task.number, "k1")
    with pytest.raises(QuotaExceededError):
        one.tasks.poll(task.number, "k1")
    one.clock.now_s += 1
    assert one.tasks.poll(task.number, "k1") is task


async def fetched(one: Rig, task: Task, change: Callable[[str], str] = str) -> httpx2.Response:
    """The reply of the address of the task's picture."""

    async def address(request: Request) -> Response:
        return JSONResponse(one.tasks.picture_url(task, request))

    app = Starlette(routes=[*one.pictures.routes, Route("/address", address)])
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://simulator") as http:
        return await http.get(change((await http.get("/address")).json()))


async def test_the_picture_waits_behind_a_signed_address_that_expires(rig: Callable[..., Rig]) -> None:
    one = rig(picture_ttl_s=60)
    task = one.accept()
    await until(lambda: task.over.is_set())
    answer = await fetched(one, task)
    assert Image.open(io.BytesIO(answer.content)).size == (32, 32)
    assert (await fetched(one, task, lambda url: url.partition("?")[0])).status_code == 403
    assert (await fetched(one, task, lambda url: url.replace(task.number, "1"))).status_code == 404
    one.clock.now_s += 60
    assert (await fetched(one, task)).status_code == 403


async def test_an_address_can_be_dead_from_the_start_or_lead_to_something_else(
    rig: Callable[..., Rig],
) -> None:
    one = rig()
    one.engine.faults.add(Fault(FaultKind.URL_EXPIRED, prompt="dead"))
    one.engine.faults.add(Fault(FaultKind.NOT_A_PICTURE, prompt="odd"))
    dead, odd = one.accept("dead"), one.accept("odd")
    await until(lambda: dead.over.is_set() and odd.over.is_set())
    assert (await fetched(one, dead)).status_code == 403
    assert b"no picture" in (await fetched(one, odd)).content
    assert one.engine.ledger.billed() == 2


async def test_forgotten_tasks_leave_the_new_books_alone(rig: Callable[..., Rig]) -> None:
    one = rig(in_flight=1)
    task = one.accept()
    one.engine.reset()
    one.tasks.reset()
    assert one.tasks.poll(task.number, "k1") is None
    await until(lambda: task.over.is_set())
    assert (one.engine.ledger.in_flight, one.engine.ledger.billed()) == (0, 0)


def test_a_fault_for_polls_leaves_calls_alone_and_the_other_way_round(rig: Callable[..., Rig]) -> None:
    faults = rig().engine.faults
    faults.add(Fault(FaultKind.SERVER_ERROR))
    faults.add(Fault(FaultKind.SERVER_ERROR, polls=True, prompt="polled"))
    faults.add(Fault(FaultKind.SLOW_POLL))
    assert faults.take("polled", OF_TASKS) is None
    assert [
        fault and fault.kind for fault in (faults.take_for_poll("polled"), faults.take_for_poll("x"))
    ] == [
        FaultKind.SERVER_ERROR,
        FaultKind.SLOW_POLL,
    ]
    assert faults.take_for_poll("polled") is None
    taken = faults.take("polled", AFTER_THE_DOOR)
    assert taken is not None
    assert not taken.polls


async def test_the_books_say_when_a_poll_found_the_end_of_a_task(rig: Callable[..., Rig]) -> None:
    one = rig(latency_s=(5.0, 5.0))
    task = one.accept()
    one.tasks.poll(task.number, "k1")
    assert (task.call.polls, task.call.found_at_s) == (1, None)
    task.state = TaskState.DONE
    one.clock.now_s += 3
    for _ in range(2):
        one.tasks.poll(task.number, "k1")
    assert (task.call.polls, task.call.found_at_s) == (2, 1003.0)


async def test_a_timed_prompt_takes_the_seconds_that_it_names(rig: Callable[..., Rig]) -> None:
    one = rig(latency_s=(99.0, 99.0), timed_prompts=True)
    task = one.accept("a mug takes 0.001 s")
    await asyncio.wait_for(until(lambda: task.state is TaskState.DONE), 10)
