"""A job that a provider would refuse is refused before any of its pictures is paid."""

from __future__ import annotations

import pytest

from daemon.accounts.routes import Routes, build_routes
from daemon.settings import Settings
from pixmill.contract import Job, Rejection

LARGEST_SEED = 2**31 - 1  # of Z-Image


@pytest.fixture
def routes() -> Routes:
    settings = Settings.model_validate(
        {
            "credentials": {"z": {"provider": "zimage", "api_key_env": "KEY"}},
            "routes": {"default": {"credential": "z", "model": "Tongyi-MAI/Z-Image-Turbo"}},
        }
    )
    return build_routes(settings, {"KEY": "ms-test"})


def test_the_seed_of_each_picture_is_in_the_range_of_the_provider(routes: Routes) -> None:
    routes.check(Job(id="a", prompt="x", seed=LARGEST_SEED - 2, n=3))
    with pytest.raises(Rejection, match=f"The seed {LARGEST_SEED + 1} is outside") as caught:
        routes.check(Job(id="a", prompt="x", seed=LARGEST_SEED - 1, n=3))
    assert caught.value.field == "seed"
