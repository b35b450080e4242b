"""The studio's payload becomes a batch: one item a picture, its own prompts, none of its credentials."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.compat.studio import studio_types
from pixmill.contract import Batch, Rejection, parse_entry
from tests.pixmill.contract.test_job import entry, refusal

KIND = "image-studio.batch.v1"
KEY = "sk-planted-4f9a1c7e22b0d6"
STUDIO = studio_types("photos")


def picture(stem: str) -> dict[str, str]:
    return {"url": f"https://cdn.example/{stem}.jpg", "name": f"{stem}.jpg", "stem": stem}


def payload(**options: Any) -> dict[str, Any]:
    return {
        "job_id": "5b8c0f5e-8a7e-4f0d-9c3e-0d8a2f1b7c11",
        "user_id": "user-123",
        "mode": "batch_series_generate",
        "sku": "__batch__",
        "stem": None,
        "options": {
            "skus": ["SKU1", "SKU2", "SKU3"],
            "sku_images_map": {
                "SKU1": [picture("a_2"), picture("a_1"), picture("a_3")],
                "SKU2": [picture("b")],
                "SKU3": [picture("c")],
            },
            "settings": {"imageSize": "1536x1536", "imageFormat": "png", "quality": 90},
            "prompt_templates": {
                "common_cn": "通用",
                "main_cn": "主图",
                "secondary_cn": "副图",
                "main_en": "main",
                "opt_remove_logo_cn": "去除标志",
            },
            **options,
        },
    }


def studio(changes: dict[str, Any] | None = None, **options: Any) -> Batch:
    parsed = parse_entry(entry({**payload(**options), **(changes or {})}, KIND), STUDIO)
    assert isinstance(parsed, Batch)
    return parsed


def test_there_is_one_item_for_each_picture_and_not_for_each_sku() -> None:
    batch = studio()
    assert [job.id for job in batch.jobs()] == ["SKU1.a_2", "SKU1.a_1", "SKU1.a_3", "SKU2.b", "SKU3.c"]
    assert (batch.id, batch.tenant) == (payload()["job_id"], "user-123")
    assert {job.route for job in batch.jobs()} == {"photos"}
    first = batch.jobs()[0]
    assert first.inputs is not None
    assert first.inputs[0].url == "https://cdn.example/a_2.jpg"
    assert first.metadata == {"sku": "SKU1", "stem": "a_2", "name": "a_2.jpg"}


def test_a_series_gives_the_main_picture_its_own_prompt() -> None:
    prompts = {job.id: job.prompt for job in studio().jobs()}
    assert prompts["SKU1.a_1"] == "通用\n\n主图"
    assert prompts["SKU1.a_2"] == "通用\n\n副图"
    assert prompts["SKU2.b"] == "通用\n\n主图"


@pytest.mark.parametrize(
    ("mode", "role"), [("batch_main_generate", "主图"), ("batch_secondary_generate", "副图")]
)
def test_the_mode_names_the_template(mode: str, role: str) -> None:
    assert {job.prompt for job in studio({"mode": mode}).jobs()} == {f"通用\n\n{role}"}


def test_english_is_used_where_there_is_some() -> None:
    batch = studio({"mode": "batch_main_generate"}, use_english=True, extra_prompt="on a table")
    assert batch.jobs()[0].prompt == "通用\n\nmain\n\non a table"


def test_an_option_brings_its_template_with_it() -> None:
    assert studio(remove_logo=True).jobs()[3].prompt == "通用\n\n主图\n\n去除标志"


@pytest.mark.parametrize(
    ("options", "size", "form", "quality"),
    [
        ({}, "1536x1536", "png", 90),
        ({"target_width": 1500, "target_height": 2000, "output_format": "JPG"}, "1500x2000", "jpeg", 90),
        ({"settings": {}}, None, None, None),
    ],
)
def test_size_and_format_come_from_the_payload(
    options: dict[str, Any], size: str | None, form: str | None, quality: int | None
) -> None:
    job = studio(**options).jobs()[0]
    assert (job.size, job.output.format, job.output.quality) == (size, form, quality)


def test_credentials_and_addresses_are_dropped_with_a_warning() -> None:
    batch = studio(api_key=KEY, api_base="https://evil.example/v1", model="any")
    assert [warning.split("`")[1] for warning in batch.warnings] == ["api_key", "api_base", "model"]
    dump = batch.model_dump_json() + repr(batch) + "".join(batch.warnings)
    assert KEY not in dump
    assert "evil.example" not in dump


def test_other_credentials_are_refused_as_everywhere() -> None:
    rejection = refusal(payload(authorization=f"Bearer {KEY}"), KIND, STUDIO)
    assert (rejection.code, rejection.tenant) == ("secret_in_payload", "user-123")


def test_names_that_are_no_ids_become_ids_that_stay_apart() -> None:
    skus = {"红色 杯": [picture("1")], "蓝色 杯": [picture("1")], "x" * 200: [picture("1")]}
    ids = [job.id for job in studio(sku_images_map=skus).jobs()]
    assert len(set(ids)) == 3
    assert studio({"user_id": "a@b.example"}).tenant.startswith("a-b.example-")


def test_two_pictures_of_one_name_are_two_items() -> None:
    batch = studio(sku_images_map={"S": [picture("a"), picture("a")]})
    assert [job.id for job in batch.jobs()] == ["S.a", "S.a-2"]
    assert "S.a-2" in batch.warnings[0]


@pytest.mark.parametrize("missing", ["stem", "name"])
def test_a_picture_without_a_stem_is_named_after_its_file_or_its_place(missing: str) -> None:
    entry_ = {name: value for name, value in picture("a").items() if name not in ("stem", missing)}
    expected = "S.a" if missing == "stem" else "S.1"
    assert [job.id for job in studio(sku_images_map={"S": [entry_]}).jobs()] == [expected]


@pytest.mark.parametrize(
    ("changes", "options", "path"),
    [
        ({"mode": "image_regenerate"}, {}, "mode"),
        ({"mode": ["x"]}, {}, "mode"),
        ({"job_id": None}, {}, "job_id"),
        ({"job_id": "a b"}, {}, "id"),
        ({"options": None}, {}, "options"),
        ({}, {"sku_images_map": {}}, "options.sku_images_map"),
        ({}, {"sku_images_map": {"S": None}}, "options.sku_images_map.S"),
        ({}, {"sku_images_map": {"S": ["https://a.example"]}}, "options.sku_images_map.S.0"),
        ({}, {"sku_images_map": {"S": [{"stem": "a"}]}}, "items.0.inputs.0"),
        ({}, {"prompt_templates": {}}, "options.prompt_templates"),
        ({}, {"settings": False}, "options.settings"),
        ({}, {"target_width": "1500", "target_height": 2000}, "options.target_width"),
        ({}, {"output_format": "gif"}, "defaults.output.format"),
    ],
)
def test_a_payload_that_is_no_studio_batch_is_refused_by_field(
    changes: dict[str, Any], options: dict[str, Any], path: str
) -> None:
    rejection: Rejection = refusal({**payload(**options), **changes}, KIND, STUDIO)
    assert (rejection.code, rejection.field) == ("invalid", path)


def test_a_picture_may_be_an_uploaded_object_instead_of_an_address() -> None:
    uploaded = {"object": "user-123/inputs/0a1b", "stem": "a_1"}
    (first, second) = studio(sku_images_map={"SKU1": [uploaded, picture("b")]}).jobs()
    assert first.inputs is not None
    assert second.inputs is not None
    assert (first.inputs[0].object, first.inputs[0].url) == ("user-123/inputs/0a1b", None)
    assert second.inputs[0].object is None
