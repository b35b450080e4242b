"""Bodies that would fill the memory, or take hours, are refused before they can."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from daemon.files import batch_file, item_check
from daemon.files.batch_file import BatchFileError, read_table
from pixmill.client.sending import batch_parts
from pixmill.contract import Rejection, parse_payload
from pixmill.contract.batches import TakenIds


def test_no_names_are_made_for_a_job_of_a_billion_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[int] = []
    monkeypatch.setattr(TakenIds, "add", lambda _, ident, n, place: named.append(n))
    items = [{"id": "a", "prompt": "x", "n": 1_000_000_000}, {"id": "b", "prompt": "x", "n": -1}]
    with pytest.raises(Rejection) as caught:
        batch_parts({"id": "b"}, items)
    assert caught.value.field == "items.0.n"
    assert named == []


def refusal(table: bytes, **options: Any) -> str:
    with pytest.raises(BatchFileError) as caught:
        read_table(table, **options)
    return str(caught.value)


def test_a_template_that_multiplies_a_cell_is_refused_before_it_is_filled() -> None:
    table = b"a\n" + b"x" * 10_000_000 + b"\n"
    said = refusal(table, prompt_template="{a}" * 100_000)
    assert "`prompt` would have 1000000000000 characters" in said


def test_prompts_are_made_up_to_the_bytes_that_are_allowed() -> None:
    rows = b"".join(b"%d\n" % k for k in range(10))
    said = refusal(b"a\n" + rows, prompt_template="{a}" + "x" * 999, most_bytes=3000)
    assert said.splitlines() == [
        "the body, line 5: the prompts up to this line have more than 0 MiB; send several batches."
    ]


def test_a_table_of_too_many_columns_is_refused_by_its_header() -> None:
    header = ",".join(f"c{k}" for k in range(1001)).encode()
    assert "line 1: has 1001 columns, and 1000 are the most" in refusal(
        header + b"\nx\n", prompt_template="{c1}"
    )


def test_a_row_of_millions_of_cells_is_refused_by_its_line() -> None:
    said = refusal(b"prompt\n" + b"," * 10_001 + b"\n")
    assert "line 2: the line has 10001 times `,`" in said


@pytest.mark.parametrize("seed", ["9" * 23, "9" * 19, "-" + "9" * 19, "٣", "1_000", "²"])
def test_a_number_that_no_reader_takes_is_a_fault_of_its_line(seed: str) -> None:
    said = refusal(f"prompt,seed\nx,1\nx,{seed}\n".encode())
    assert said == f'the body, line 3: `seed` must be a whole number, not "{seed}".'


def test_a_long_head_is_checked_once_and_not_with_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[int] = []

    def parse(data: bytes, kind: str) -> Any:
        checked.append(len(data))
        return parse_payload(data, kind)

    monkeypatch.setattr(item_check, "parse_payload", parse)
    defaults = {"prompt": "x" * 30_000, "params": {"style": "x" * 100_000}, "n": 3, "seed": 1}
    lines = [b'{"id": "i%d"}' % k for k in range(100)]
    file = batch_file.read_json_lines(lines, first_line=2, defaults=defaults, most_items=100)
    assert len(file.items) == 100
    assert sum(size > 1000 for size in checked) == 1


@pytest.mark.parametrize(
    ("defaults", "line", "said"),
    [
        ({"prompt": "x", "n": 5}, {"seed": 2**63 - 2}, "`seed` is too large for n = 5"),
        (
            {"not_before": "2030-01-02T00:00:00Z"},
            {"deadline": "2030-01-01T00:00:00Z", "prompt": "x"},
            "`deadline`",
        ),
        ({"size": "1:1"}, {}, "`prompt` is missing"),
        ({"prompt": "x", "size": "large"}, {}, "`defaults.size` must be"),
    ],
)
def test_what_does_not_fit_the_head_is_a_fault_of_its_line(
    defaults: dict[str, Any], line: dict[str, Any], said: str
) -> None:
    with pytest.raises(BatchFileError, match=said):
        batch_file.read_json_lines(
            [orjson.dumps({"id": "a", **line})], first_line=2, defaults=defaults, most_items=100
        )
