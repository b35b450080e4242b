"""The data between producers, the daemon and its readers: models, the reading of entries, fingerprints.

Other packages import the names from here; the other modules of the package hold them.
"""

from pixmill.contract.batches import Batch, BatchItem, Cancel, RetryRequest
from pixmill.contract.entry import BATCH_TYPE, JOB_TYPE, PayloadTypes, load_object, parse_entry, parse_payload
from pixmill.contract.event_types import FINAL_STATES
from pixmill.contract.events import Event
from pixmill.contract.jobs import Callback, Input, Job, fingerprint_content, pixel_fingerprint
from pixmill.contract.place import Place, place_of
from pixmill.contract.rejection import Rejection
from pixmill.contract.secrets import contains_secret

__all__ = [
    "BATCH_TYPE",
    "FINAL_STATES",
    "JOB_TYPE",
    "Batch",
    "BatchItem",
    "Callback",
    "Cancel",
    "Event",
    "Input",
    "Job",
    "PayloadTypes",
    "Place",
    "Rejection",
    "RetryRequest",
    "contains_secret",
    "fingerprint_content",
    "load_object",
    "parse_entry",
    "parse_payload",
    "pixel_fingerprint",
    "place_of",
]
