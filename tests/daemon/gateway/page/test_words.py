"""The words of the page: both languages have all of them, and the page uses no other."""

from __future__ import annotations

import re

import pytest

from daemon.gateway.document.codes import CODES
from daemon.gateway.page.files import ASSETS
from providers.errors import ErrorKind

ENTRY = re.compile(r'^\s*\["([^"]+)", "((?:[^"\\]|\\.)*)"\],$', re.MULTILINE)
USED = re.compile(r"""\bt\(\s*["'`]([\w.]+)["'`]""")
VALUE = re.compile(r"\{\w+\}")
ROOMS = ("", "_batch", "_new")


def words(language: str, room: str) -> dict[str, str]:
    """The texts of a language in one room."""
    return dict(ENTRY.findall((ASSETS / "core" / "words" / f"{language}{room}.js").read_text("utf-8")))


def keys(texts: dict[str, str]) -> set[str]:
    """The keys, without the forms of a plural, of which languages have different ones."""
    return {re.sub(r"\.(one|other)$", "", key) for key in texts}


@pytest.mark.parametrize("room", ROOMS)
def test_both_languages_have_the_same_keys(room: str) -> None:
    assert keys(words("en", room)) == keys(words("zh", room))


@pytest.mark.parametrize("room", ROOMS)
def test_both_languages_show_the_same_values(room: str) -> None:
    english = words("en", room)
    for key, text in words("zh", room).items():
        values = set(VALUE.findall(text))
        plural = values | set(VALUE.findall(english.get(key.removesuffix(".other") + ".one", "")))
        assert set(VALUE.findall(english[key])) in (values, plural), key


def test_no_key_is_given_twice() -> None:
    for language in ("en", "zh"):
        given = [
            key
            for room in ROOMS
            for key, _ in ENTRY.findall((ASSETS / "core/words" / f"{language}{room}.js").read_text("utf-8"))
        ]
        assert len(given) == len(set(given))


def test_every_word_that_the_page_uses_exists() -> None:
    known = set().union(*(keys(words("en", room)) for room in ROOMS))
    for path in ASSETS.rglob("*.js"):
        if "vendor" not in path.parts:
            used = set(USED.findall(path.read_text("utf-8")))
            assert used <= known, f"{path.name}: {used - known}"


def test_every_line_of_the_lists_is_read_by_these_tests() -> None:
    for path in (ASSETS / "core" / "words").glob("*.js"):
        text = path.read_text("utf-8")
        assert text.count("[") - 1 == len(ENTRY.findall(text)), path.name


def test_codes_with_words_of_their_own_are_codes_of_the_gateway() -> None:
    named = {key.removeprefix("problem.") for key in words("en", "") if key.startswith("problem.")}
    assert named - {"unreachable"} <= {*CODES}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_kind_of_failure_has_words_and_no_other_kind_has(language: str) -> None:
    named = {key for key in words(language, "_batch") if key.startswith("batch.kind.")}
    assert named == {f"batch.kind.{kind}" for kind in ErrorKind}
