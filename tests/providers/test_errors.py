"""The taxonomy: every kind has a rule, and no secret is shown or stored."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixmill.redaction import redact
from providers.errors import MESSAGE_LIMIT, RULES, Charged, ErrorKind, ProviderError, Retry, Scope


def test_every_kind_has_a_rule() -> None:
    assert set(RULES) == set(ErrorKind)


@pytest.mark.parametrize(
    "kind",
    [
        ErrorKind.RATE_LIMITED,
        ErrorKind.CONCURRENCY_LIMITED,
        ErrorKind.BUDGET_IN_FLIGHT,
        ErrorKind.OVERLOADED,
        ErrorKind.AUTH,
        ErrorKind.BILLING_EXHAUSTED,
        ErrorKind.QUOTA_EXHAUSTED,
    ],
)
def test_a_refusal_of_the_account_costs_the_job_nothing(kind: ErrorKind) -> None:
    assert RULES[kind].retry in (Retry.AFTER_THROTTLE, Retry.PAUSE_QUOTA)
    assert RULES[kind].charged is Charged.NO


def test_a_key_that_a_pattern_knows_only_in_part_is_removed_whole() -> None:
    secret = "sk-abcdefghijklmnop.the/tail+of/it"
    error = ProviderError(ErrorKind.AUTH, f"The key {secret} is wrong.").without(secret)
    for shown in (error.message, str(error), repr(error), str(error.to_dict()), str(error.args)):
        assert "tail" not in shown


def test_what_a_terminal_obeys_is_escaped_in_an_error() -> None:
    evil = "no\x1b]52;c;aGk=\x07 \u202egnp.exe\x9b2J\r\nsucceeded"
    error = ProviderError(ErrorKind.AUTH, evil, provider_code=evil, request_id=evil, field=evil)
    for one in (error, error.without("secret")):
        for shown in (one.message, str(one), str(one.provider_code), str(one.request_id), str(one.field)):
            assert shown.isprintable()
            assert shown.startswith("no\\x1b]52;c;aGk=\\x07 \\u202e")


def test_nothing_that_may_be_charged_is_resubmitted_without_a_cap() -> None:
    for kind, rule in RULES.items():
        if rule.charged is not Charged.NO and rule.retry is Retry.BACKOFF:
            assert rule.max_retries is not None, kind


def test_an_error_takes_its_rule_and_lets_a_provider_override_it() -> None:
    plain = ProviderError(ErrorKind.NO_IMAGE, "Nothing was drawn.")
    assert (plain.retry, plain.scope, plain.charged) == (Retry.BACKOFF, Scope.JOB, Charged.MAYBE)
    assert ProviderError(ErrorKind.NO_IMAGE, "x", charged=Charged.YES).charged is Charged.YES


@given(st.sampled_from(ErrorKind), st.floats(0, 1e9))
def test_only_a_spent_allowance_is_waited_for_longer_than_a_quarter_of_an_hour(
    kind: ErrorKind, asked_s: float
) -> None:
    waits_s = ProviderError(kind, "later", retry_after_s=asked_s).retry_after_s
    assert waits_s == (asked_s if kind is ErrorKind.QUOTA_EXHAUSTED else min(asked_s, 900))


def test_an_accepted_call_may_have_been_charged() -> None:
    assert ProviderError(ErrorKind.RATE_LIMITED, "x").of_accepted_call().charged is Charged.MAYBE
    paid = ProviderError(ErrorKind.NO_IMAGE, "x", charged=Charged.YES)
    assert paid.of_accepted_call().charged is Charged.YES


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Incorrect API key provided: sk-proj-abcdefghijklmnop1234", "abcdefghijklmnop1234"),
        ("sent Authorization: Bearer ms-0123456789abcdef", "0123456789abcdef"),
        ("see https://bucket.example/x.png?q-sign=feedbeef&token=1 now", "feedbeef"),
        ("redis at https://user:hunter22@example.org/x", "hunter22"),
        ('{"api_key": "plain-secret-value"}', "plain-secret-value"),
        ("got " + "QUJD" * 100, "QUJD" * 60),
    ],
)
def test_secrets_are_cut_out_of_messages(text: str, secret: str) -> None:
    error = ProviderError(ErrorKind.UNKNOWN, text)
    for shown in (str(error), repr(error), json.dumps(error.to_dict()), redact(text)):
        assert secret not in shown


@given(st.text(max_size=5000), st.text(max_size=500), st.text(max_size=500))
def test_a_record_of_an_error_stays_below_two_kilobytes(message: str, code: str, request_id: str) -> None:
    error = ProviderError(ErrorKind.UNKNOWN, message, provider_code=code, request_id=request_id)
    record = json.dumps(error.to_dict(), ensure_ascii=False).encode("utf-8", "replace")
    # Escapes may double a character; the bound is for the text itself.
    assert sum(len(str(value).encode("utf-8", "replace")) for value in error.to_dict().values()) <= 2048
    assert record


@given(st.integers(0, 40), st.sampled_from(["ms-planted-secret-0123456789abcdef", "unusual!form,of=key"]))
def test_a_quoted_secret_is_removed_also_where_the_message_was_cut(room: int, secret: str) -> None:
    message = "." * (MESSAGE_LIMIT - room) + f"{secret} is wrong. " + "." * MESSAGE_LIMIT
    error = ProviderError(ErrorKind.AUTH, message, provider_code=secret, request_id=secret).without(secret)
    assert secret[:5] not in f"{error} {error!r} {error.to_dict()} {error.args}"


@pytest.mark.parametrize(("start", "part"), [("", "a."), ("", "http://"), ("Key ", " ")])
def test_a_text_that_would_keep_the_search_busy_for_an_hour_is_read_once(start: str, part: str) -> None:
    text = start + part * (1_000_000 // len(part))
    assert redact(text, limit=len(text)) == text


def test_a_long_or_odd_scheme_hides_no_password() -> None:
    assert (
        redact("postgresql+psycopg2-long-name://u:pw@h ×://u:pw@h/x")
        == "postgresql+psycopg2-long-name://h ×://h/x"
    )
    assert redact("http://http://a?b HTTPS://c?d, https://e") == "http://http://a?… HTTPS://c?… https://e"
