"""Checks the stored pictures that a request names as inputs."""

from __future__ import annotations

from pixmill.contract import Job, Rejection


def check_objects(job: Job) -> None:
    """Refuse inputs that name objects of other tenants; raises Rejection."""
    for index, image in enumerate(job.inputs or ()):
        if image.object is None:
            continue
        owner, *rest = image.object.split("/")
        # A store may read an odd segment in its own way, and so leave the folder of the tenant.
        is_odd = not rest or not {"", ".", ".."}.isdisjoint(rest) or not image.object.isprintable()
        if owner != job.tenant or is_odd or "\\" in image.object:
            field = f"inputs.{index}.object"
            sentence = f"`{field}` must be an object of this tenant, as uploads and records name them."
            raise Rejection("invalid", sentence, field=field, tenant=job.tenant, ident=job.id)
