"""The bodies of requests, each with an example; those of jobs and batches come from the contract's models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = Mapping[str, Any]
JSON: Final = "application/json"


def ref(name: str) -> dict[str, str]:
    """A reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def body(schema: Schema, example: Any, media: str = JSON, *, required: bool = True) -> dict[str, Any]:
    """A body of one media type."""
    return {"required": required, "content": {media: {"schema": dict(schema), "example": example}}}


def _object(properties: Schema, required: tuple[str, ...] = (), *, closed: bool = False) -> Schema:
    more = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": dict(properties), "required": list(required), **more}


def _files(example: str) -> Schema:
    """A file of an edit: its bytes are no text, so an example has none either."""
    return {"type": "string", "format": "binary", "description": example}


_TEXT: Final = {"type": "string"}
_KETTLE: Final = "white background product photo of a kettle"

JOB: Final = body(ref("NewJob"), {"prompt": _KETTLE, "size": "1024x1024", "n": 1})

BATCH: Final = body(
    ref("NewBatch"),
    {
        "defaults": {"prompt": "white background product photo", "size": "1024x1024"},
        "items": [{"id": "sku-1"}, {"id": "sku-2", "prompt": "a red kettle"}],
    },
)
# The two other forms of a batch.
BATCH["content"] |= {
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "The batch without its items, then one item a line."},
        "example": '{"defaults": {"size": "1024x1024"}}\n{"id": "sku-1", "prompt": "a red kettle"}\n',
    },
    "text/csv": {
        "schema": {"type": "string", "description": "A header of job fields, then one item a row."},
        "example": "id,prompt\nsku-1,a red kettle\n",
    },
}

CANCEL: Final = body(ref("CancelSelection"), {"states": ["queued"]})
RETRY: Final = body(ref("RetrySelection"), {"kinds": ["provider_timeout"]})
PAUSE: Final = body(ref("PauseOrder"), {"reason": "wrong prompt"})
NOTHING: Final = body(
    {"type": "object", "additionalProperties": False, "patternProperties": {"^x_": {}}},
    {},
)
PAUSE_FOR: Final = body(
    _object(
        {
            "reason": {"type": "string", "maxLength": 200},
            "for": {
                "type": ["string", "null"],
                "description": "30s, 10min or 12h; without it until a resume",
            },
        },
        closed=True,
    ),
    {"reason": "the provider is down", "for": "10min"},
    required=False,
)

INPUT: Final = {
    "required": True,
    "content": {
        kind: {"schema": {"type": "string", "format": "binary"}}
        for kind in ("image/png", "image/jpeg", "image/webp")
    },
}

SESSION: Final = body(_object({"key": _TEXT}, ("key",)), {"key": "pxm_..."})

SLIDES: Final = body(
    _object(
        {
            "slides": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1000,
                "items": _object(
                    {
                        "id": {"type": ["string", "integer"], "minLength": 1},
                        "page_num": {"type": ["integer", "null"]},
                        "type": {},
                        "title": {"type": ["string", "null"]},
                        "content_text": {"type": ["string", "null"]},
                        "visual_desc": {"type": ["string", "null"], "description": "what it shows"},
                    },
                    ("id",),
                ),
            },
            "style_prompt": {"type": ["string", "null"], "description": "before each prompt"},
            "max_workers": {"type": ["integer", "null"], "minimum": 1, "maximum": 10, "default": 3},
            "aspect_ratio": {"type": ["string", "null"], "default": "16:9"},
            "session_id": {"description": "your own name for it; it comes back"},
        },
        ("slides",),
    ),
    {
        "slides": [{"id": "s1", "page_num": 1, "title": "Kettles", "visual_desc": "a kettle on a table"}],
        "style_prompt": "flat illustration",
        "max_workers": 3,
        "aspect_ratio": "16:9",
    },
)
DECK_STATUS: Final = body(_object({"batch_id": _TEXT}, ("batch_id",)), {"batch_id": "slides-1"})

STUDIO: Final = body(
    _object(
        {
            "job_id": {"type": "string", "minLength": 1, "description": "or the header Idempotency-Key"},
            "user_id": _TEXT,
            "mode": {
                "type": "string",
                "enum": ["batch_series_generate", "batch_main_generate", "batch_secondary_generate"],
            },
            "options": _object(
                {
                    "sku_images_map": {
                        "type": "object",
                        "description": "the pictures of each SKU: `{url, name, stem}`",
                        "additionalProperties": {"type": "array", "items": {"type": "object"}},
                    },
                    "prompt_templates": {"type": "object", "description": "main_cn, common_cn, opt_*"},
                    "use_english": {},
                    "settings": {"type": ["object", "null"]},
                },
                ("sku_images_map",),
            ),
        },
        ("mode", "options"),
    ),
    {
        "job_id": "job-1",
        "user_id": "u-7",
        "mode": "batch_series_generate",
        "options": {
            "sku_images_map": {"sku1": [{"url": "https://shop.example/1.png", "name": "1.png", "stem": "1"}]},
            "prompt_templates": {"main_cn": "white background"},
        },
    },
)

_WISH: Final = {
    "model": {"type": ["string", "null"], "description": "a route, or the model of one"},
    "prompt": {"type": "string", "minLength": 1, "maxLength": 32000},
    "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 10},
    "size": {"type": ["string", "null"], "description": "1024x1024, 16:9 or auto"},
    "response_format": {"type": ["string", "null"], "enum": ["b64_json", "url", None]},
    "output_format": {"type": ["string", "null"], "enum": ["png", "jpeg", "webp", None]},
    "output_compression": {"type": ["integer", "null"], "minimum": 1, "maximum": 100},
    "stream": {"type": ["boolean", "null"]},
    "quality": {"description": "for the provider"},
}
GENERATION: Final = body(
    _object(_WISH, ("prompt",)), {"model": "default", "prompt": _KETTLE, "response_format": "url"}
)
EDIT: Final = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": _object(
                {
                    "image": {"type": "array", "maxItems": 16, "items": _files("a PNG, JPEG or WebP")},
                    "mask": _files("a PNG"),
                    **dict.fromkeys(("model", "prompt", "n", "size", "response_format"), _TEXT),
                },
                ("image", "prompt"),
            )
        }
    },
}
