"""Routes of one account that share no quota are named in a sentence."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from daemon.settings import Settings
from daemon.settings.accounts import unshared_accounts


def sentences(
    *quotas: list[str], keys: tuple[str, ...] = ("KEY", "KEY", "KEY"), environ: Mapping[str, str] = {}
) -> list[str]:
    """One route for each list of quotas, each with a credential of its own that names a key."""
    names = ("one", "two", "three")[: len(quotas)]
    settings = Settings.model_validate(
        {
            "credentials": {
                name: {"provider": "openai", "api_key_env": key}
                for name, key in zip(names, keys, strict=False)
            },
            "routes": {
                name: {"credential": name, "model": "m", "quotas": list(named)}
                for name, named in zip(names, quotas, strict=True)
            },
            "quotas": {name: {"images": "20/min"} for name in "abc"},
        }
    )
    return list(unshared_accounts(settings, environ))


@pytest.mark.parametrize(
    ("quotas", "spent"),
    [
        ((["a"], ["b"]), "`one`: a; `two`: b"),
        ((["a", "c"], []), "`one`: a, c; `two`: no quota"),
        ((["a"], ["a", "b"], ["b"]), "`one`: a; `two`: a, b; `three`: b"),
    ],
)
def test_quotas_that_do_not_know_of_each_other_are_named(quotas: tuple[list[str], ...], spent: str) -> None:
    assert sentences(*quotas) == [
        f"the routes of the account in KEY have no quota in common ({spent}). If the provider limits the account and "
        "not each model apart, name one quota in all of them, beside others of their own."
    ]


@pytest.mark.parametrize("quotas", [(["a"],), ([], []), (["a"], ["a"]), (["a", "b"], ["c", "a"])])
def test_routes_with_a_common_quota_or_with_none_at_all_are_fine(quotas: tuple[list[str], ...]) -> None:
    assert sentences(*quotas) == []


def test_routes_of_two_accounts_need_no_common_quota() -> None:
    assert sentences(["a"], ["b"], keys=("KEY", "OTHER")) == []


@pytest.mark.parametrize(("other", "count"), [("sk-planted", 1), ("sk-planted-2", 0)])
def test_one_secret_under_two_names_is_one_account(other: str, count: int) -> None:
    environ = {"KEY": "sk-planted", "OTHER": other}
    found = sentences(["a"], ["b"], keys=("KEY", "OTHER"), environ=environ)
    assert len(found) == count
    for sentence in found:
        assert sentence.startswith("the routes of the account in KEY and OTHER have no quota in common")
        assert "planted" not in sentence
