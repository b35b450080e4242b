"""Files of shops and spreadsheets: each column is used, or reported, or its name is questioned."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli.planning import left_out
from daemon.files.batch_file import BatchFile, BatchFileError, read_batch_file
from daemon.files.columns import hint, job_field

# The header rows of the product exports, as the shops write them.
WOOCOMMERCE = (
    'ID,Type,SKU,Name,Published,"Is featured?","Visibility in catalog","Short description",Description,'
    '"Date sale price starts","Date sale price ends","Tax status","Tax class","In stock?",Stock,"Low stock amount",'
    '"Backorders allowed?","Sold individually?","Weight (kg)","Length (cm)","Width (cm)","Height (cm)",'
    '"Allow customer reviews?","Purchase note","Sale price","Regular price",Categories,Tags,"Shipping class",Images,'
    '"Download limit","Download expiry days",Parent,"Grouped products",Upsells,Cross-sells,"External URL",'
    '"Button text",Position,"Attribute 1 name","Attribute 1 value(s)","Attribute 1 visible","Attribute 1 global",'
    '"Meta: color"'
)
SHOPIFY = (
    "Handle,Title,Body (HTML),Vendor,Product Category,Type,Tags,Published,Option1 Name,Option1 Value,Option2 Name,"
    "Option2 Value,Option3 Name,Option3 Value,Variant SKU,Variant Grams,Variant Inventory Tracker,"
    "Variant Inventory Qty,Variant Inventory Policy,Variant Fulfillment Service,Variant Price,"
    "Variant Compare At Price,Variant Requires Shipping,Variant Taxable,Variant Barcode,Image Src,Image Position,"
    "Image Alt Text,Gift Card,SEO Title,SEO Description,Google Shopping / Google Product Category,"
    "Google Shopping / Gender,Google Shopping / Age Group,Google Shopping / MPN,Google Shopping / Condition,"
    "Google Shopping / Custom Product,Variant Image,Variant Weight Unit,Variant Tax Code,Cost per item,Status"
)


def test_an_export_of_woocommerce_makes_prompts_and_keeps_its_ids(tmp_path: Path) -> None:
    row = '44,simple,k-44,"Red kettle",1' + "," * (WOOCOMMERCE.count(",") - 4) + "red"
    read = _read(tmp_path, f"\ufeff\ufeff{WOOCOMMERCE}\n{row}\n", prompt_template="{Meta: color} {Name} {ID}")
    assert read.items == [{"id": "44", "prompt": "red Red kettle 44"}]
    assert {"SKU", "Images", "Width (cm)"} <= set(read.unused)
    assert not {"ID", "Name", "Meta: color"} & set(read.unused)
    assert hint("Images") == "inputs"


def test_an_export_of_shopify_leaves_out_rows_that_only_add_a_picture(tmp_path: Path) -> None:
    commas = "," * (SHOPIFY.count(",") - 1)
    text = f"{SHOPIFY}\nkettle,Red kettle{commas}\nkettle,{commas}\ncup,Blue cup{commas}\n"
    read = _read(tmp_path, text, prompt_template="{Title}, white background", skip_empty=True)
    assert [item["prompt"] for item in read.items] == [
        "Red kettle, white background",
        "Blue cup, white background",
    ]
    assert read.skipped == 1
    with pytest.raises(BatchFileError, match=r"line 3: .*`Title`, which is empty here; --skip-empty leaves"):
        _read(tmp_path, text, prompt_template="{Title}, white background")


def test_columns_differ_from_fields_in_case_blanks_and_marks(tmp_path: Path) -> None:
    text = "\ufeff\ufeffId,prompt,Size,SEED,Negative Prompt,max-attempts,Params.Style,Output.Format\n"
    text += "k1,a red kettle,1024x1536,7,blurry,3,flat,jpeg\n"
    read = _read(tmp_path, text)
    assert read.items == [
        {
            "id": "k1",
            "prompt": "a red kettle",
            "size": "1024x1536",
            "seed": 7,
            "negative_prompt": "blurry",
            "max_attempts": 3,
            "params": {"Style": "flat"},
            "output": {"format": "jpeg"},
        }
    ]
    assert read.unused == ()


@pytest.mark.parametrize(
    ("column", "guess"),
    [
        ("promt", "prompt"),
        ("Sizes", "size"),
        ("Negative Promt", "negative_prompt"),
        ("quality", "params.quality` or `output.quality"),
        ("width", "size"),
        ("Image URL", "inputs"),
        ("aspect_ratio", "size"),
    ],
)
def test_a_column_that_was_probably_meant_as_a_field_is_questioned(
    tmp_path: Path, column: str, guess: str
) -> None:
    text = f"id,prompt,{column}\nk1,a red kettle,1\n"
    with pytest.raises(BatchFileError) as caught:
        _read(tmp_path, text)
    assert f"nothing uses the column `{column}`; did you mean `{guess}`?" in str(caught.value)
    read = _read(tmp_path, text, ignored=[column])
    assert read == BatchFile([{"id": "k1", "prompt": "a red kettle"}])


@pytest.mark.parametrize(("column", "guess"), [("Site", "size"), ("Side", "size"), ("promt", "prompt")])
def test_a_guess_about_a_column_of_an_export_blocks_nothing(tmp_path: Path, column: str, guess: str) -> None:
    read = _read(tmp_path, f"id,Title,{column}\nk1,Kettle,x\n", prompt_template="{Title}")
    assert (read.items, read.unused) == ([{"id": "k1", "prompt": "Kettle"}], (column,))
    assert left_out(read) == [f"Columns that nothing uses: {column} (did you mean {guess}?)."]


@pytest.mark.parametrize("column", ["tenant", "callback", "Params", "metadata", "output"])
def test_a_field_that_no_cell_can_hold_is_refused(tmp_path: Path, column: str) -> None:
    with pytest.raises(BatchFileError, match=f"the column `{column}` cannot be read: "):
        _read(tmp_path, f"id,prompt,{column}\nk1,a red kettle,x\n")


def test_a_column_that_nothing_uses_is_reported(tmp_path: Path) -> None:
    read = _read(tmp_path, "id,prompt,Tags,Headline,Tags\nk1,a red kettle,x,y,z\n")
    assert read.unused == ("Tags", "Headline")


def test_a_template_uses_a_column_that_is_no_job_field(tmp_path: Path) -> None:
    text = "id,Title,Size\nk1,Shirt,XL\n"
    with pytest.raises(BatchFileError, match=r'`size` must be .* not "XL"'):
        _read(tmp_path, text, prompt_template="{Title}, {Size}")
    read = _read(tmp_path, text, prompt_template="{Title}, {Size}", ignored=["Size"])
    assert read.items == [{"id": "k1", "prompt": "Shirt, XL"}]


def test_two_columns_never_fill_one_field(tmp_path: Path) -> None:
    with pytest.raises(BatchFileError, match="the columns `ID`, `id` all fill `id`"):
        _read(tmp_path, "ID,prompt,id\n1,a,2\n")


def test_a_first_line_may_name_the_separator(tmp_path: Path) -> None:
    read = _read(tmp_path, "sep=;\r\nid;prompt\r\nk1;red, white\r\n")
    assert read.items == [{"id": "k1", "prompt": "red, white"}]
    with pytest.raises(BatchFileError, match="line 3: "):
        _read(tmp_path, "sep=|\nid|prompt|seed\nk1|red|many\n")


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x1c"])
def test_a_separator_of_another_alphabet_does_not_end_the_header(tmp_path: Path, separator: str) -> None:
    read = _read(tmp_path, f"id, a{separator}b;prompt;seed\nk1;x;7\n", ignored=[f"id, a{separator}b"])
    assert (read.items[0]["prompt"], read.items[0]["seed"]) == ("x", 7)


def test_a_cell_of_any_length_is_read(tmp_path: Path) -> None:
    read = _read(tmp_path, f'id,prompt,Body\nk1,a red kettle,"{"<p>" * 60_000}"\n')
    assert len(read.items) == 1


@pytest.mark.parametrize("text", ['[{"id":"k1","prompt":"a"}]', '{\n  "id": "k1",\n  "prompt": "a"\n}'])
@pytest.mark.parametrize("name", ["list.json", "list.csv"])
def test_json_is_no_table(tmp_path: Path, text: str, name: str) -> None:
    with pytest.raises(BatchFileError, match=r"write one object a line, and name the file \.jsonl"):
        _read(tmp_path, text, name=name)


def test_all_mistakes_of_a_row_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(BatchFileError) as caught:
        _read(tmp_path, "id,prompt,size,seed,n,priority\nbad id,,huge,many,99,soon\n")
    messages = [problem.message for problem in caught.value.problems]
    for field in ("id", "prompt", "size", "seed", "n", "priority"):
        assert [text for text in messages if text.startswith(f"`{field}` ")], (field, messages)


def test_all_mistakes_of_a_json_line_are_listed_at_once(tmp_path: Path) -> None:
    line = '{"id":"a","prompt":"x","promt":"y","sizes":"1:1","seed":-1,"n":0}'
    with pytest.raises(BatchFileError) as caught:
        _read(tmp_path, line, name="jobs.jsonl")
    messages = [problem.message for problem in caught.value.problems]
    assert [text.split()[0] for text in messages] == ["`promt`", "`sizes`", "`seed`", "`n`"]


def test_a_name_that_the_template_misses_by_case_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(BatchFileError, match=r"Did you mean \{Title\}\?"):
        _read(tmp_path, "Handle,Title\nk,Kettle\n", prompt_template="{title}")


def test_names_inside_a_section_keep_their_case() -> None:
    assert job_field("Params.CfgScale") == "params.CfgScale"
    assert job_field("metadata.Order No") == "metadata.Order No"


def _read(
    directory: Path,
    text: str,
    *,
    name: str = "jobs.csv",
    prompt_template: str | None = None,
    ignored: list[str] | None = None,
    skip_empty: bool = False,
) -> BatchFile:
    file = directory / name
    file.write_bytes(text.encode())
    return read_batch_file(
        file, prompt_template=prompt_template, ignored=ignored or (), skip_empty=skip_empty
    )
