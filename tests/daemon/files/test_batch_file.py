"""A file becomes the items of a batch, or every problem in it is reported with its line."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.files.batch_file import BatchFileError, read_batch_file
from pixmill.client.sending import batch_parts
from pixmill.contract import Rejection


def test_columns_named_like_job_fields_fill_them(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        "id,prompt,size,seed,n,route,priority,negative_prompt,inputs,params.guidance,metadata.sku,output.format\n"
        "a,a red kettle,1024x1024,0,2,slides,high,text,https://x.example/1.png https://x.example/2.png,4.5,77,jpeg\n",
    )
    assert read_batch_file(file).items == [
        {
            "id": "a",
            "prompt": "a red kettle",
            "size": "1024x1024",
            "seed": 0,
            "n": 2,
            "route": "slides",
            "priority": "high",
            "negative_prompt": "text",
            "inputs": [{"url": "https://x.example/1.png"}, {"url": "https://x.example/2.png"}],
            "params": {"guidance": 4.5},
            "metadata": {"sku": "77"},
            "output": {"format": "jpeg"},
        }
    ]


def test_an_empty_cell_gives_nothing_and_rows_without_an_id_are_numbered(tmp_path: Path) -> None:
    file = _file(tmp_path, "id,prompt,seed\n,one,\nb,two,7\n,three,\n")
    assert read_batch_file(file).items == [
        {"id": "row-0001", "prompt": "one"},
        {"id": "b", "prompt": "two", "seed": 7},
        {"id": "row-0003", "prompt": "three"},
    ]


def test_a_template_makes_prompts_from_other_columns(tmp_path: Path) -> None:
    file = _file(tmp_path, "sku,title\n1,Red kettle\n2,Blue {cup}\n")
    items = read_batch_file(file, prompt_template="{title} ({sku}), {{white}} background").items
    assert [item["prompt"] for item in items] == [
        "Red kettle (1), {white} background",
        "Blue {cup} (2), {white} background",
    ]
    assert set(items[0]) == {"id", "prompt"}


def test_a_missing_template_column_is_reported_with_the_columns_there_are(tmp_path: Path) -> None:
    file = _file(tmp_path, "\n\nsku,name\n1,Red kettle\n2,Cup\n")
    with pytest.raises(BatchFileError) as caught:
        read_batch_file(file, prompt_template="{title}, white background")
    (problem,) = caught.value.problems
    assert problem.line == 3
    assert "`title`" in problem.message
    assert "sku, name" in problem.message


def test_an_empty_place_in_the_template_is_not_paid_for(tmp_path: Path) -> None:
    file = _file(tmp_path, "title\nKettle\n   \n\nCup\n")
    assert len(read_batch_file(file, prompt_template="{title}").items) == 2
    file = _file(tmp_path, "sku,title\n1,Kettle\n2,\n")
    with pytest.raises(
        BatchFileError, match="line 3: the prompt template needs `title`, which is empty here"
    ):
        read_batch_file(file, prompt_template="{title}, white background")


@pytest.mark.parametrize("template", ["{title.upper}", "{0!r}", "{title:>10}", "{}", "{title", "title}"])
def test_a_template_names_columns_and_can_do_nothing_else(tmp_path: Path, template: str) -> None:
    file = _file(tmp_path, "title\nKettle\n")
    with pytest.raises((ValueError, BatchFileError)):
        read_batch_file(file, prompt_template=template)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_spreadsheets_are_read(tmp_path: Path, delimiter: str, newline: str) -> None:
    rows = ["id;prompt", "", 'a;"a ""red"" kettle; big"', ";;;", "b;水壶", ""]
    text = newline.join(rows).replace(";", delimiter)
    file = _file(tmp_path, text, encoding="utf-8-sig")
    assert read_batch_file(file).items == [
        {"id": "a", "prompt": f'a "red" kettle{delimiter} big'},
        {"id": "b", "prompt": "水壶"},
    ]


def test_a_quote_inside_an_unquoted_cell_is_kept(tmp_path: Path) -> None:
    file = _file(tmp_path, 'id,prompt\na,a 19" monitor\n')
    assert read_batch_file(file).items == [{"id": "a", "prompt": 'a 19" monitor'}]


def test_every_problem_has_the_line_in_which_its_row_begins(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        "id,prompt,size,seed\n"
        'a,"one\ntwo",1024x1024,1\n'  # lines 2 and 3
        "b,ok,huge,\n"
        "c,ok,,many\n"
        "a,again,,\n"
        "bad id,ok,,\n"
        "d,ok,,1,more,cells\n"
        "e,,,\n",
    )
    with pytest.raises(BatchFileError) as caught:
        read_batch_file(file)
    problems = {problem.line: problem.message for problem in caught.value.problems}
    assert sorted(problems) == [4, 5, 6, 7, 8, 9]
    assert "`size`" in problems[4]
    assert '"huge"' in problems[4]
    assert '`seed` must be a whole number, not "many"' in problems[5]
    assert 'the id "a" is already taken in line 2' in problems[6]
    assert "`id`" in problems[7]
    assert "6 cells" in problems[8]
    assert "`prompt` is missing" in problems[9]
    assert str(caught.value).startswith("jobs.csv, line 4: ")


def test_the_pictures_of_a_row_take_ids_too(tmp_path: Path) -> None:
    file = _file(tmp_path, "id,prompt,n\na,x,3\na.2,y,1\n")
    with pytest.raises(BatchFileError, match=r'line 3: the id "a\.2" is already taken in line 2'):
        read_batch_file(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is no job in this file"),
        ("id,prompt\n", "line 1: there is no job in this file"),
        ("title,sku\nx,1\n", "line 1: there is no column `prompt`; the columns are title, sku"),
        ("prompt,prompt\nx,y\n", "line 1: two columns are called `prompt`"),
        ('id,prompt\na,ok\nb,"never closed\nc,x\n', "line 3: a quote is opened and never closed"),
        ('id,prompt\na,"a "red" kettle"\n', "line 2: a quote inside a quoted cell must be written twice"),
    ],
)
def test_a_file_that_is_no_table_of_jobs_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BatchFileError, match=message):
        read_batch_file(_file(tmp_path, text))


def test_text_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "jobs.csv"
    file.write_bytes("id,prompt\na,ok\nb,Käse\n".encode("latin-1"))
    with pytest.raises(BatchFileError, match="line 3: the text is not UTF-8"):
        read_batch_file(file)


def test_a_column_prompt_is_not_needed_when_the_batch_has_one_for_all(tmp_path: Path) -> None:
    file = _file(tmp_path, "id,seed\na,1\nb,2\n")
    assert read_batch_file(file, defaults={"prompt": "a kettle"}).items == [
        {"id": "a", "seed": 1},
        {"id": "b", "seed": 2},
    ]


def test_jsonl_has_one_job_a_line(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        '{"id":"a","prompt":"one","metadata":{"k":"v"}}\n\n{"prompt":"two\u2028lines"}\n',
        "jobs.jsonl",
    )
    assert read_batch_file(file).items == [
        {"id": "a", "prompt": "one", "metadata": {"k": "v"}},
        {"id": "row-0002", "prompt": "two\u2028lines"},
    ]


def test_jsonl_problems_have_lines_too(tmp_path: Path) -> None:
    lines = [
        '{"id":"a","prompt":"x"}',
        "{not json",
        '["list"]',
        '{"id":"b","promt":"x"}',
        '{"id":"c","api_key":"s"}',
    ]
    file = _file(tmp_path, "\n".join(lines), "jobs.ndjson")
    with pytest.raises(BatchFileError) as caught:
        read_batch_file(file)
    problems = {problem.line: problem.message for problem in caught.value.problems}
    assert sorted(problems) == [2, 3, 4, 5]
    assert "not JSON" in problems[2]
    assert "must be a JSON object" in problems[3]
    assert "did you mean `prompt`?" in problems[4]
    assert "`api_key` is a place for a credential" in problems[5]
    assert "items.0" not in str(caught.value)


def test_a_template_over_jsonl_uses_fields_that_are_not_job_fields(tmp_path: Path) -> None:
    file = _file(tmp_path, '{"id":"a","title":"Kettle","seed":1}\n{"id":"b","seed":2}\n', "jobs.jsonl")
    with pytest.raises(BatchFileError, match="line 2: the prompt template names `title`, which is not there"):
        read_batch_file(file, prompt_template="{title}")
    file = _file(tmp_path, '{"id":"a","title":"Kettle","seed":1}\n', "jobs.jsonl")
    assert read_batch_file(file, prompt_template="{title}").items == [
        {"id": "a", "seed": 1, "prompt": "Kettle"}
    ]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60), st.integers(4000, 20_000))
def test_parts_hold_all_items_once_and_in_order_and_keep_their_size(
    lengths: list[int], part_bytes: int
) -> None:
    items: list[dict[str, Any]] = [
        {"id": f"i{k}", "prompt": "x" * length} for k, length in enumerate(lengths)
    ]
    parts = batch_parts({"id": "b", "defaults": {"size": "1:1"}}, items, part_bytes=part_bytes)
    read = [orjson.loads(part) for part in parts]
    assert [item for part in read for item in part["items"]] == items
    assert all(len(part) <= part_bytes for part in parts)
    if len(parts) > 1:
        assert [(part["part"], part["parts"]) for part in read] == [
            (k + 1, len(parts)) for k in range(len(parts))
        ]
    assert parts == batch_parts({"id": "b", "defaults": {"size": "1:1"}}, items, part_bytes=part_bytes)


def test_more_than_a_thousand_items_go_in_parts() -> None:
    parts = batch_parts({"id": "b"}, [{"id": f"i{k}", "prompt": "x"} for k in range(2001)])
    assert [len(orjson.loads(part)["items"]) for part in parts] == [1000, 1000, 1]


def test_an_id_that_comes_again_in_another_part_is_refused() -> None:
    items = [{"id": f"i{k}", "prompt": "x"} for k in range(1500)] + [{"id": "i3", "prompt": "y"}]
    with pytest.raises(Rejection, match='Items 4 and 1501 share the id "i3"'):
        batch_parts({"id": "b"}, items)


def test_an_item_that_fits_no_entry_is_refused_before_anything_is_sent() -> None:
    prompt = string.ascii_letters * 600
    items = [{"id": "a", "prompt": prompt, "negative_prompt": prompt, "x_note": prompt * 8}]
    with pytest.raises(Rejection, match="256 KiB"):
        batch_parts({"id": "b"}, items)


def _file(directory: Path, text: str, name: str = "jobs.csv", encoding: str = "utf-8") -> Path:
    file = directory / name
    file.write_bytes(text.encode(encoding))
    return file
