"""The names of an older Hunyuan client on the same code: tasks in, results out, a file for each picture."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pixmill.api.saving import destination, format_of, write_new
from pixmill.errors import OutputError, PixmillError, RejectedError, naming
from pixmill.results import OnProgress, Result

MOST_AT_ONCE = 100  # pictures of a batch
MOST_REFUSED = 100  # tasks that are taken out of a batch, each by one more sending
SAVED_AT_ONCE = 4
_IDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_PIXELS = re.compile(r"(\d{3,5})[:xX*](\d{3,5})")
_FAULTY_ITEM = re.compile(r"items\.(\d+)(?:\.|$)")
_NUMBERED = re.compile(r"(?<![\w.])items\.\d+\.")


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """One picture to make. `resolution` is "1024:1024" in pixels or a ratio such as "16:9"; None is the model's own.

    `model` names a route. `output_path` is a new file, relative to the current folder. `task_id` comes back in the
    result. `style` is added to the prompt. `seed` goes to the model; 0 is a seed.

    Example:

        task = GenerationTask("a red kettle", resolution="1024:1024", output_path="out/kettle.png", task_id="sku1")
    """

    prompt: str
    resolution: str | None = None
    style: str | None = None
    model: str | None = None
    output_path: str | Path | None = None
    task_id: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The result of a task. `error_message` is None for a success; `generation_time` are seconds, of failed ones too.

    A picture that was made and whose file could not be written is no success; `image_url` still leads to it.

    Example:

        if not result.success:
            print(result.task_id, result.error_message)
    """

    success: bool
    task_id: str
    image_url: str | None = None
    generation_time: float = 0.0
    error_message: str | None = None
    output_path: str | None = None


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    """The numbers of a batch; times are seconds. `average_time` is that of the pictures that were made.

    Example:

        print(f"{statistics.successful} of {statistics.total}, {statistics.success_rate:.0%}")
    """

    total: int
    successful: int
    failed: int
    success_rate: float
    total_time: float
    average_time: float


def batch_statistics(results: Sequence[GenerationResult]) -> BatchStatistics:
    """The numbers of these results.

    Example:

        statistics = batch_statistics(client.generate_batch_sync(tasks))
    """
    times = [result.generation_time for result in results if result.success]
    count = len(results)
    return BatchStatistics(
        total=count,
        successful=len(times),
        failed=count - len(times),
        success_rate=len(times) / count if count else 0.0,
        total_time=round(sum(result.generation_time for result in results), 3),
        average_time=round(sum(times) / len(times), 3) if times else 0.0,
    )


class Producer(Protocol):
    """The part of a client that tasks need."""

    async def submit_batch(
        self,
        items: Iterable[str | Mapping[str, Any]],
        *,
        id: str | None,  # noqa: A002 - as in Client
        **defaults: Any,
    ) -> str:
        """Send a batch."""

    async def wait(self, id: str, *, on_progress: OnProgress | None) -> list[Result]:  # noqa: A002 - as in Client
        """Its results."""

    async def picture(self, result: Result) -> bytes:
        """The bytes of a picture."""


async def run_tasks(
    client: Producer,
    tasks: Sequence[GenerationTask],
    *,
    batch_id: str | None,
    on_progress: OnProgress | None,
    max_concurrent_jobs: int | None,
    max_retries: int | None,
) -> list[GenerationResult]:
    """A result for each task, in their order. One that is not allowed is a result, too, and the others are made."""
    names = _names(tasks)
    places, refused = _places(tasks, is_new=batch_id is None)
    head: dict[str, Any] = {}
    if max_concurrent_jobs is not None:
        head["max_in_flight"] = min(MOST_AT_ONCE, max(1, max_concurrent_jobs))
    if max_retries is not None:
        head["max_attempts"] = min(20, max(1, max_retries + 1))
    items = {k: _item(task, names[k]) for k, task in enumerate(tasks) if k not in refused}
    ident = await _submitted(client, items, batch_id, head, refused)
    made: dict[str, Result] = {}
    if ident is not None:
        with naming(ident):
            made = {each.id: each for each in await client.wait(ident, on_progress=on_progress)}
    gate = asyncio.Semaphore(SAVED_AT_ONCE)

    async def result(number: int) -> GenerationResult:
        shown = tasks[number].task_id or names[number]
        found = made.get(names[number])
        if number in refused or found is None:
            return GenerationResult(
                False, shown, error_message=refused.get(number, "There is no record of it.")
            )
        async with gate:
            return await _finished(client, found, shown, places.get(number))

    return list(await asyncio.gather(*(result(number) for number in range(len(tasks)))))


async def _submitted(
    client: Producer,
    items: dict[int, dict[str, Any]],
    batch_id: str | None,
    head: Mapping[str, Any],
    refused: dict[int, str],
) -> str | None:
    """Send the items that are allowed; each other one is put among `refused` with its sentence.

    A batch is sent again only where nothing of the last sending runs. Raises RejectedError.
    """
    most = len(refused) + MOST_REFUSED
    while items:
        numbers = list(items)
        try:
            return await client.submit_batch([items[number] for number in numbers], id=batch_id, **head)
        except RejectedError as error:
            faulty = _FAULTY_ITEM.match(error.field or "")
            if faulty is None or int(faulty[1]) >= len(numbers):
                raise
            number = numbers[int(faulty[1])]
            sentence = _NUMBERED.sub("", str(error))  # it counts the items that were left
            if len(refused) == most:
                raise RejectedError(
                    f"More than {MOST_REFUSED} of the tasks are not allowed, so none is made. "
                    f"Task {number + 1}: {sentence}",
                    error.code,
                ) from None
            refused[number] = sentence
            del items[number]
    return None


async def _finished(client: Producer, result: Result, task_id: str, place: Path | None) -> GenerationResult:
    message = result.message
    if not result.ok and message is None:
        message = "Its call has an unknown outcome: it is held until a person decides."
    path = None
    if result.ok and place is not None:
        try:
            data = await client.picture(result)
            _check(data, result.images[0])
            await asyncio.to_thread(write_new, place, data)
            path = str(place)
        except PixmillError as error:
            message = str(error)
    return GenerationResult(message is None, task_id, result.url, result.seconds, message, path)


def _check(data: bytes, image: Mapping[str, Any]) -> None:
    expected = image.get("sha256")
    if expected is not None and hashlib.sha256(data).hexdigest() != expected:
        raise OutputError("The picture arrived with other bytes than it was stored with.")


def batch_name(task_id: str) -> str:
    """The id of the batch of one task: its own where that is fit for it, else a digest."""
    return (
        task_id if _IDENT.fullmatch(task_id) else f"task-{hashlib.sha256(_bytes(task_id)).hexdigest()[:32]}"
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _names(tasks: Sequence[GenerationTask]) -> list[str]:
    """The ids of the items: those of the tasks where they are fit for it, and each only once."""
    fit = {task.task_id for task in tasks if task.task_id is not None and _IDENT.fullmatch(task.task_id)}
    names: dict[str, None] = {}
    for number, task in enumerate(tasks, 1):
        name = task.task_id
        if name is None or name not in fit or name in names:
            name = f"item-{number:04d}"
            while name in fit:
                name += "-task"
        names[name] = None
    return list(names)


def _places(tasks: Sequence[GenerationTask], *, is_new: bool) -> tuple[dict[int, Path], dict[int, str]]:
    """The file of each task that has one, and why others cannot have theirs: before anything is paid.

    A file of new work must not exist; that of a batch with an id may be the picture of an earlier call.
    """
    places: dict[int, Path] = {}
    refused: dict[int, str] = {}
    taken: dict[str, int] = {}
    for number, task in enumerate(tasks):
        if task.output_path is None:
            continue
        try:
            place = destination(task.output_path, Path.cwd())
        except OutputError as error:
            refused[number] = str(error)
            continue
        first = taken.setdefault(os.path.realpath(place), number)
        if first != number:
            refused[number] = f'"{place}" is already the file of task {first + 1}; name another.'
        elif is_new and os.path.lexists(place):
            refused[number] = (
                f'"{place}" exists already, so the picture was not made. Name a new file, or the `batch_id` of the '
                "batch that wrote this one."
            )
        else:
            places[number] = place
    return places, refused


def _item(task: GenerationTask, name: str) -> dict[str, Any]:
    # No provider here has a parameter for a style, and every model reads it in the prompt.
    prompt = task.prompt if task.style is None or not task.prompt else f"{task.prompt}, {task.style}"
    item: dict[str, Any] = {"id": name, "prompt": prompt}
    if task.resolution is not None:
        pixels = _PIXELS.fullmatch(task.resolution)
        item["size"] = f"{pixels[1]}x{pixels[2]}" if pixels else task.resolution
    if task.model is not None:
        item["route"] = task.model
    if task.seed is not None:
        item["seed"] = task.seed
    if task.output_path is not None and (wanted := format_of(task.output_path)) is not None:
        item["output"] = {"format": wanted}
    return item
