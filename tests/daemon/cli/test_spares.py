"""What the commands say of routes that several accounts serve, and of their items."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from daemon.queue.messages import Serving
from daemon.queue.outcomes import Failed, Succeeded, Throttled
from tests.daemon.cli.conftest import Pixmill
from tests.daemon.harness import Installation
from tests.daemon.live import image_of

CONFIG = """
[credentials.main]
provider = "openai"
api_key_env = "OPENAI_API_KEY"
[credentials.second]
provider = "openai"
api_key_env = "SECOND_API_KEY"
[quotas]
main = {images = "20/min"}
second = {images = "20/min"}
[routes.first]
credential = "main"
model = "gpt-image-1"
quotas = ["main"]
fallback = ["second"]
[routes.second]
credential = "second"
model = "gpt-image-1"
quotas = ["second"]
[routes.either]
any = ["first", "second"]
"""
SPARE = Serving("second", ("first", "second"), ("first",), spare=True, differs=False)
UNSENT = {"kind": "network_unsent", "message": "No way.", "charged": "no", "retryable": True}


@pytest.fixture(autouse=True)
def config(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pixmill.toml").write_text(CONFIG)


@pytest.fixture
def here(redis: Redis) -> Installation:
    return Installation(redis, routes=("first", "second", "either"))


async def test_explain_says_for_which_account_an_item_waits(
    pixmill: Pixmill, here: Installation, tmp_path: Path
) -> None:
    await here.submit({"id": "goes", "prompt": "x", "route": "first"})
    assert "While its route is down, second may take it." in (await pixmill("explain", "goes")).out
    await here.submit({"id": "stays", "prompt": "x", "route": "first", "fallback": False})
    (item,) = (await here.queue.claim("first", 5, serving=SPARE)).items
    out = (await pixmill("explain", "stays")).out
    assert "Its `fallback` is false, so it waits for its own route, first." in out
    assert "may take it" not in out
    assert (await pixmill("explain", "stays", "--json")).document["waits_for_account"] == "first"
    await here.queue.note_receipt(item, b'{"task_id":"t1","route":"second","instead_of":"first"}')
    await here.queue.settle(item, Throttled({**UNSENT, "resumable": True}, 0.0), "yes")
    own = Serving("first", ("first", "second"), ("first", "second"), spare=False, differs=False)
    assert not (await here.queue.claim("first", 1, serving=own)).items
    assert "Its call was sent by the account of route second" in (await pixmill("explain", "goes")).out
    (tmp_path / "pixmill.toml").write_text(CONFIG.replace('fallback = ["second"]', ""))
    assert "so it waits for its own route, first." in (await pixmill("explain", "stays")).out


async def test_explain_names_the_equals_and_the_quotas_of_all(pixmill: Pixmill, here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x", "route": "either"})
    assert (
        "The one of the routes first, second with the earliest slot takes it."
        in (await pixmill("explain", "j1")).out
    )
    assert (await pixmill("explain", "j1", "--json")).document["quotas"] == {"main": None, "second": None}


async def test_status_shows_both_routes_while_it_runs_and_after_its_end(
    pixmill: Pixmill, here: Installation
) -> None:
    for name in ("made", "failed"):
        await here.submit({"id": name, "prompt": "x", "route": "first"})
    made, failed = (await here.queue.claim("first", 2, serving=SPARE)).items
    document = (await pixmill("status", "made", "--json")).document
    assert (document["route"], document["instead_of"]) == ("second", "first")
    by = {"route": "second", "instead_of": "first"}
    await here.queue.settle(made, Succeeded({"images": [image_of(made)], "attempts": 1, **by}), "yes")
    await here.queue.settle(failed, Failed(UNSENT), "no")
    for name in ("made", "failed"):
        assert "route second instead of first" in (await pixmill("status", name)).out
        document = (await pixmill("status", name, "--json")).document
        assert (document["route"], document["instead_of"]) == ("second", "first")


async def test_a_waiting_item_is_its_own_routes_again(pixmill: Pixmill, here: Installation) -> None:
    await here.submit({"id": "j1", "prompt": "x", "route": "first"})
    (item,) = (await here.queue.claim("first", 1, serving=SPARE)).items
    await here.queue.settle(item, Throttled(UNSENT, 0.0), "no")
    document = (await pixmill("status", "j1", "--json")).document
    assert (document["route"], document["instead_of"]) == ("first", None)
    (item,) = (await here.queue.claim("first", 1)).items  # by a replica without the spare
    await here.queue.settle(item, Succeeded({"images": [image_of(item)], "attempts": 1}), "yes")
    document = (await pixmill("status", "j1", "--json")).document
    assert (document["route"], document["instead_of"]) == ("first", None)


async def test_the_configuration_is_right_and_is_printed(pixmill: Pixmill) -> None:
    assert (await pixmill("config", "check")).code == 0
    out = (await pixmill("config", "print")).out
    assert "routes.either.any" in out
    assert '["first", "second"]' in out


async def test_a_plan_divides_pictures_among_equals(pixmill: Pixmill, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,prompt\n" + "".join(f"r{k},a cup\n" for k in range(80)))
    ran = await pixmill("batch", "rows.csv", "--route", "either", "--dry-run", "--json")
    assert ran.document["at_least_seconds"] == pytest.approx(60, abs=1), ran.err
