"""Callbacks are signed by Standard Webhooks, and an undeliverable one is refused with a sentence."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

from daemon.callbacks.signing import Webhooks, secret_bytes
from daemon.settings import SettingsError, load_settings
from pixmill.contract import Callback, Rejection

# The example in the tests of the Standard Webhooks libraries.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE, SENT_S, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()


def configured(tmp_path: Path, text: str, **environ: str) -> Webhooks:
    path = tmp_path / "pixmill.toml"
    path.write_text(text)
    return Webhooks.configured(load_settings(path, environ=environ).settings, environ)


def test_the_signature_is_that_of_the_standards_own_example(tmp_path: Path) -> None:
    webhooks = configured(tmp_path, '[webhooks.main]\nsecret_env = "HOOK"\n', HOOK=SECRET)
    assert webhooks.sign("main", MESSAGE, SENT_S, BODY) == SIGNATURE


def test_while_a_secret_is_replaced_there_is_a_signature_of_each(tmp_path: Path) -> None:
    (tmp_path / "old").write_text(OLD + "\n")
    text = f'[webhooks.main]\nsecret_env = "HOOK"\nold_secret_file = "{tmp_path}/old"\n'
    new, old = configured(tmp_path, text, HOOK=SECRET).sign("main", MESSAGE, SENT_S, BODY).split(" ")
    assert new == SIGNATURE
    signed = f"{MESSAGE}.{SENT_S}.".encode() + BODY
    digest = hmac.new(b"o" * 24, signed, hashlib.sha256).digest()
    assert old == "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "does not begin with `whsec_`"),
        ("whsec_not base64!", "is not base64"),
        ("whsec_" + base64.b64encode(b"k" * 23).decode(), "holds 23 bytes"),
    ],
)
def test_an_invalid_secret_is_refused_without_being_shown(tmp_path: Path, secret: str, why: str) -> None:
    with pytest.raises(SettingsError, match=r"webhooks\.main: ") as caught:
        configured(tmp_path, '[webhooks.main]\nsecret_env = "HOOK"\n', HOOK=secret)
    assert why in str(caught.value)
    assert "at least 24 random bytes" in str(caught.value)
    assert secret.removeprefix("whsec_") not in str(caught.value)


def test_a_missing_secret_is_named(tmp_path: Path) -> None:
    text = '[webhooks.main]\nsecret_env = "HOOK"\nold_secret_env = "OLD_HOOK"\n'
    with pytest.raises(SettingsError, match="OLD_HOOK"):
        configured(tmp_path, text, HOOK=SECRET)


KNOWN = Webhooks({"main": (secret_bytes(SECRET),)}, ["hooks.internal"])


@pytest.mark.parametrize(
    ("callback", "field", "sentence"),
    [
        (
            {"url": "https://a.example", "secret": "man"},
            "callback.secret",
            '`callback.secret` names no configured secret: "man"; configured are "main".',
        ),
        (
            {"url": "https://a.example"},
            "callback.secret",
            "`callback.secret` is missing, and no secret called `default` is configured to sign with; "
            'name one: configured are "main".',
        ),
        (
            {"url": "http://a.example/?key=k", "secret": "main"},
            "callback.url",
            "Plain http is not accepted for a.example: give an https URL of a public host, or let the operator "
            "add the host to `allow_hosts`.",
        ),
        (
            {"url": "http://169.254.169.254/x", "secret": "main"},
            "callback.url",
            "169.254.169.254 is not a public address, and one that is never fetched: "
            "give an https URL of a public host.",
        ),
    ],
)
def test_a_callback_that_could_never_be_delivered_is_refused(
    callback: dict[str, Any], field: str, sentence: str
) -> None:
    with pytest.raises(Rejection) as caught:
        KNOWN.check(Callback.model_validate(callback), tenant="shop", ident="j1")
    rejection = caught.value
    assert (rejection.code, rejection.field, rejection.message) == ("unsupported", field, sentence)
    assert (rejection.tenant, rejection.ident) == ("shop", "j1")


def test_where_no_secret_is_configured_the_refusal_says_so() -> None:
    callback = Callback.model_validate({"url": "https://a.example", "secret": "main"})
    with pytest.raises(Rejection, match="the operator has configured none"):
        Webhooks({}, ()).check(callback, tenant="t", ident="j")


def test_an_allowed_host_may_be_internal_and_plain_http() -> None:
    KNOWN.check(
        Callback.model_validate({"url": "http://hooks.internal:8080/x", "secret": "main"}),
        tenant="t",
        ident="j",
    )
