"""What travels between producers, the daemon and its readers: models, the reading of entries, JSON Schema.

Everything public is here; the modules beside this one are how it is made.
"""

from daemon.contract.entry import (
    BATCH_TYPE,
    CANCEL_TYPE,
    JOB_TYPE,
    MAX_DATA_BYTES,
    RETRY_TYPE,
    Payload,
    PayloadType,
    PayloadTypes,
    contains_secret,
    load_object,
    parse_entry,
    parse_payload,
)
from daemon.contract.events import (
    EVENT_DATA,
    EVENT_TYPES,
    FINAL_STATES,
    BatchState,
    Counts,
    ErrorRecord,
    Event,
    EventType,
    ImageRecord,
    ItemState,
)
from daemon.contract.fields import Priority
from daemon.contract.fingerprint import fingerprint_content, pixel_fingerprint
from daemon.contract.jobs import (
    Batch,
    BatchItem,
    Callback,
    Cancel,
    Input,
    Job,
    JobDefaults,
    Output,
    RetryRequest,
)
from daemon.contract.place import Place, place_of
from daemon.contract.rejection import Rejection, RejectionCode
from daemon.contract.schema import SCHEMA_NAMES, SchemaName, schema

__all__ = [
    "BATCH_TYPE",
    "CANCEL_TYPE",
    "EVENT_DATA",
    "EVENT_TYPES",
    "FINAL_STATES",
    "JOB_TYPE",
    "MAX_DATA_BYTES",
    "RETRY_TYPE",
    "SCHEMA_NAMES",
    "Batch",
    "BatchItem",
    "BatchState",
    "Callback",
    "Cancel",
    "Counts",
    "ErrorRecord",
    "Event",
    "EventType",
    "ImageRecord",
    "Input",
    "ItemState",
    "Job",
    "JobDefaults",
    "Output",
    "Payload",
    "PayloadType",
    "PayloadTypes",
    "Place",
    "Priority",
    "Rejection",
    "RejectionCode",
    "RetryRequest",
    "SchemaName",
    "contains_secret",
    "fingerprint_content",
    "load_object",
    "parse_entry",
    "parse_payload",
    "pixel_fingerprint",
    "place_of",
    "schema",
]
