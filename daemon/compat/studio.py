"""Adapter for `image-studio.batch.v1`: the e-commerce studio's own payload becomes a batch.

One item for each picture of `sku_images_map`, so progress counts pictures, not SKUs. A picture may name an uploaded
`object` instead of its `url`. The payload's credentials are dropped, with a warning: they come from the configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from pydantic import ValidationError

from pixmill.contract.batches import ITEMS_MAX, Batch
from pixmill.contract.entry import PayloadType, PayloadTypes
from pixmill.contract.explain import refused
from pixmill.contract.fields import IDENT_PATTERN
from pixmill.contract.jobs import MOST_PROMPT
from pixmill.contract.rejection import Rejection, clipped, shown

STUDIO_TYPE = "image-studio.batch.v1"
_CREDENTIALS = frozenset({"api_key", "api_base"})


def studio_types(route: str) -> PayloadTypes:
    """The studio's type for `parse_entry`; its payload names no route, so its pictures go to `route`."""
    return {
        STUDIO_TYPE: PayloadType(
            lambda payload: studio_batch(payload, route=route),
            tenant="user_id",
            idents=("job_id",),
            drops=_CREDENTIALS,
        )
    }


def studio_batch(payload: dict[str, Any], *, route: str) -> Batch:
    """The batch that a studio payload describes, with its warnings; raises Rejection.

    Unknown fields are ignored: the studio decides about the content of its payload.
    """
    options = _object(payload.get("options"), "options")
    pictures = list(_pictures(_object(options.get("sku_images_map"), "options.sku_images_map")))
    if not 1 <= len(pictures) <= ITEMS_MAX:
        raise _invalid("options.sku_images_map", f"must hold 1 to {ITEMS_MAX} pictures, not {len(pictures)}")
    warnings = _dropped(payload, options)
    prompt = _prompts(payload, options)
    items = [_item(sku, stem, picture, prompt(is_main)) for sku, stem, picture, is_main in pictures]
    _make_ids_unique(items, warnings)
    content = {
        "id": _text(payload.get("job_id"), "job_id"),
        "tenant": as_ident(_text(payload.get("user_id", "default"), "user_id")),
        "defaults": _defaults(options, route),
        "items": items,
        "metadata": {"mode": clipped(str(payload.get("mode")))},
    }
    try:
        return Batch.model_validate(content).with_warnings(warnings)
    except ValidationError as error:
        raise refused(error, Batch) from None


def as_ident(text: str) -> str:
    """A name in the form of an id. A changed one ends in a hash of the original, so no two become one."""
    if _IDENT.fullmatch(text):
        return text
    kept = re.sub(r"[^A-Za-z0-9._:-]+", "-", text).strip("._:-")[:100] or "x"
    return f"{kept}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def _prompts(payload: dict[str, Any], options: dict[str, Any]) -> Callable[[bool], str]:
    """A function that makes the prompt of a main or a secondary picture, from the templates of mode and language."""
    mode = payload.get("mode")
    if not isinstance(mode, str) or mode not in _ROLES:
        raise _invalid("mode", f"must be one of {', '.join(_ROLES)}, not {shown(mode)}")
    templates = _object(options.get("prompt_templates", {}), "options.prompt_templates")
    languages = ("en", "cn") if options.get("use_english") is True else ("cn",)
    # Templates such as opt_remove_logo_cn count when the option remove_logo is on.
    optional = {key[4:-3] for key in templates if key.startswith("opt_") and key[-3:] in ("_cn", "_en")}

    def template(name: str) -> str | None:
        found = (templates.get(f"{name}_{language}") for language in languages)
        return next((text for text in found if isinstance(text, str) and text.strip()), None)

    @cache
    def prompt(is_main: bool) -> str:
        role = _ROLES[mode] or ("main" if is_main else "secondary")
        parts = [
            template("common"),
            template(role) or template("main"),
            template("title_details_prompt"),
            *(template(f"opt_{name}") for name in sorted(optional) if options.get(name) is True),
            options.get("extra_prompt"),
        ]
        texts = [part.strip() for part in parts if isinstance(part, str) and part.strip()]
        if (length := sum(map(len, texts))) > MOST_PROMPT:
            # Refused before it is joined: a thousand pictures share the templates.
            sentence = f"make a prompt of {length} characters, and {MOST_PROMPT} are the most"
            raise _invalid("options.prompt_templates", sentence)
        text = "\n\n".join(texts)
        if not text:
            names = f"`{role}_{languages[0]}` or `common_{languages[0]}`"
            raise _invalid("options.prompt_templates", f"has no text under {names}")
        return text

    return prompt


_ROLES: dict[str, str | None] = {
    "batch_series_generate": None,
    "batch_main_generate": "main",
    "batch_secondary_generate": "secondary",
}


def _pictures(skus: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    """(sku, stem, picture, whether it is the SKU's main one: the stem ends in _1, or else it comes first)."""
    for sku, entries in skus.items():
        path = f"options.sku_images_map.{clipped(sku)}"
        if not isinstance(entries, list):
            raise _invalid(path, f"must be a list of pictures, not {shown(entries)}")
        pictures = [_object(entry, f"{path}.{index}") for index, entry in enumerate(entries)]
        stems = [_stem(picture, index) for index, picture in enumerate(pictures)]
        main = {index for index, stem in enumerate(stems) if stem.rpartition("_")[2] == "1"} or {0}
        for index, (stem, picture) in enumerate(zip(stems, pictures, strict=True)):
            yield sku, stem, picture, index in main


def _stem(picture: dict[str, Any], index: int) -> str:
    for name in ("stem", "name"):
        if isinstance(value := picture.get(name), str) and value:
            return value.rpartition(".")[0] or value if name == "name" else value
    return str(index + 1)


def _item(sku: str, stem: str, picture: dict[str, Any], prompt: str) -> dict[str, Any]:
    metadata = {"sku": sku[:256], "stem": stem[:256]}
    if isinstance(name := picture.get("name"), str):
        metadata["name"] = name[:256]
    return {
        "id": as_ident(f"{sku}.{stem}"),
        "prompt": prompt,
        "inputs": [{"object": picture["object"]} if "object" in picture else {"url": picture.get("url")}],
        "metadata": metadata,
    }


def _make_ids_unique(items: list[dict[str, Any]], warnings: list[str]) -> None:
    seen: set[str] = set()
    for item in items:
        ident, count = item["id"], 1
        while item["id"] in seen:
            count += 1
            item["id"] = f"{ident[:120]}-{count}"
        if count > 1:
            warnings.append(
                f'Two pictures are called "{clipped(ident)}"; the later one is now "{item["id"]}".'
            )
        seen.add(item["id"])


def _defaults(options: dict[str, Any], route: str) -> dict[str, Any]:
    given = options.get("settings")
    settings = {} if given is None else _object(given, "options.settings")
    defaults: dict[str, Any] = {"route": route}
    width, height = options.get("target_width"), options.get("target_height")
    if width is not None and height is not None:
        for name, value in (("target_width", width), ("target_height", height)):
            if type(value) is not int:
                raise _invalid(f"options.{name}", f"must be a whole number of pixels, not {shown(value)}")
        defaults["size"] = f"{width}x{height}"
    elif settings.get("imageSize") is not None:
        defaults["size"] = settings["imageSize"]
    output: dict[str, Any] = {}
    if (form := options.get("output_format") or settings.get("imageFormat")) is not None:
        lowered = form.lower() if isinstance(form, str) else form
        output["format"] = "jpeg" if lowered == "jpg" else lowered
    if (quality := settings.get("quality")) is not None:
        output["quality"] = quality
    return {**defaults, "output": output} if output else defaults


def _dropped(payload: dict[str, Any], options: dict[str, Any]) -> list[str]:
    warnings = [
        f"`{name}` was dropped: credentials and addresses come from the configuration; do not send it."
        for name in ("api_key", "api_base")
        if name in payload or name in options
    ]
    if "model" in options:
        warnings.append("`model` was ignored: the route decides the provider and the model.")
    return warnings


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(path, f"must be an object, not {shown(value)}")
    return value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise _invalid(path, f"must be a text, not {shown(value)}")
    return value


def _invalid(path: str, what: str) -> Rejection:
    return Rejection("invalid", f"`{path}` {what}.", field=path)


_IDENT = re.compile(IDENT_PATTERN.strip("^$"))
