"""One installation over its Redis, with all that commands of the daemon need: keys, records, entries, watches.

Producers have `pixmill.Client`, which uses this.
"""

from pixmill.client.client import Client
from pixmill.client.sending import Acceptance, Sent
from pixmill.client.watching import StreamEvent
from pixmill.errors import NotRunningError, RejectedError
from pixmill.results import Result

__all__ = ["Acceptance", "Client", "NotRunningError", "RejectedError", "Result", "Sent", "StreamEvent"]
