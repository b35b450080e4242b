"""`pixmill submit`: one prompt, one or several pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.acceptance import after_sending
from daemon.cli.commands.explain import reason_of
from daemon.cli.ending import ready
from daemon.cli.errors import USAGE, CommandError
from daemon.cli.session import Session, command
from pixmill.broker.files import is_file
from pixmill.ids import new_id


@command
async def submit(
    session: Session,
    prompt: Annotated[str, typer.Argument(help="A description of the picture.")],
    route: Annotated[str | None, typer.Option(help="A configured route (default).")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="A picture to edit: a URL, or an object key. Repeatable."),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="How many pictures, 1 to 10.")] = None,
    size: Annotated[str | None, typer.Option(help='Such as "1024x1024" or "16:9".')] = None,
    seed: Annotated[int | None, typer.Option(help="Picture k gets seed + k; 0 is a seed.")] = None,
    negative_prompt: Annotated[
        str | None, typer.Option(help="A description of what must not be in it.")
    ] = None,
    priority: Annotated[str | None, typer.Option(help="high, normal or low.")] = None,
    ident: Annotated[
        str | None, typer.Option("--id", help="An id of your own; sent twice, it is paid once.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until it has ended.")] = False,
    out: Annotated[Path | None, typer.Option(help="Save the pictures into this directory.")] = None,
) -> int:
    """Ask for pictures of one prompt.

    Prints the id; with --wait or --out it stays until the pictures are there.

        pixmill submit "a red kettle on a white table" --n 2 --out pictures
    """
    given: dict[str, Any] = {
        "route": route,
        "inputs": [_input(text) for text in inputs or ()] or None,
        "n": n,
        "size": size,
        "seed": seed,
        "negative_prompt": negative_prompt,
        "priority": priority,
    }
    job = {"id": ident or new_id("job"), "tenant": session.tenant, "prompt": prompt}
    job |= {name: value for name, value in given.items() if value is not None}
    ready(out)
    async with session.fleet() as client:
        return await after_sending(
            session, client, await client.sender.job(job), explain=reason_of, wait=wait, out=out
        )


def _input(text: str) -> dict[str, str]:
    if text.startswith(("http://", "https://")):
        return {"url": text}
    scheme, separator, _ = text.partition("://")
    if separator:
        raise CommandError(
            f"--input takes an https URL, or the key of an object in the store, not {scheme}://.", USAGE
        )
    if text.startswith(("/", "./", "../", "~", ".\\")) or is_file(text):
        raise CommandError(
            f"{text} is a file of this machine, which the workers cannot read: give a URL, or the key of an object "
            "in the store.",
            USAGE,
        )
    return {"object": text}
