"""No form of a refusal makes the daemon call in a loop; the benchmark of that still runs, end to end."""

from __future__ import annotations

import pytest

from benchmarks.account.wait_zero import FORMS, MOST_CALLS, kept, table
from tests.benchmarks.smoke import MET, run_printing


@pytest.mark.timed
def test_in_a_few_seconds_no_form_of_a_refusal_is_called_in_a_loop() -> None:
    printed = run_printing("account.wait_zero", "--seconds", "4", exit_codes=MET, timeout_s=90)
    assert len(printed.splitlines()) == len(FORMS) + 1


def test_a_form_that_is_called_too_often_or_never_is_shown_in_capitals() -> None:
    few = {form.name: [0.0] for form in FORMS}
    assert all(kept(form, few[form.name]) for form in FORMS)
    shown = table(few | {"zero": [0.0] * (MOST_CALLS + 1), "unnamed": []})
    assert [line.split()[0] for line in shown.splitlines() if "TOO MANY" in line] == ["zero"]
    assert [line.split()[0] for line in shown.splitlines() if "NONE" in line] == ["unnamed"]
