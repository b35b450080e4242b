"""Two hashes of a job: of its whole content (is this the same submission?) and of what changes pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from daemon.contract.jobs import Job


def fingerprint_content(job: Job) -> str:
    """sha256 of the job's content, for the rule "same id, same content".

    Giving a default explicitly changes nothing, nor does the order of the fields or the zone that a time is
    written in.
    """
    return _sha256(job.model_dump(exclude_defaults=True))


def pixel_fingerprint(job: Job, provider: str, model: str, input_hashes: Sequence[str], k: int = 0) -> str:
    """sha256 of what decides the pixels of picture `k` of a job.

    That is provider, model, prompts, seed, size, params, inputs (`input_hashes` are the sha256 of their
    bytes, in their order) and the stored format. Ids, priority, times and metadata have no part in it.
    Without a seed every picture of a job is another draw, so `k` itself is hashed.
    """
    inputs = job.inputs or []
    if len(inputs) != len(input_hashes):
        raise ValueError(f"{len(input_hashes)} hashes were given for {len(inputs)} inputs")
    seed = {"k": k} if job.seed is None else {"seed": job.seed + k}
    return _sha256(
        {
            "v": 1,
            "provider": provider,
            "model": model,
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt or "",
            **seed,
            "size": job.size,
            "params": job.params or {},
            "inputs": [[entry.role, digest] for entry, digest in zip(inputs, input_hashes, strict=True)],
            "format": job.output.format,
            "quality": job.output.quality,
        }
    )


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
