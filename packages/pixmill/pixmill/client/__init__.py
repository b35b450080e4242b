"""The Python client of an installation. The public names are here; the other modules of the package are internal."""

from pixmill.client.client import Client, NotRunningError, Result
from pixmill.client.sending import Acceptance, RejectedError, Sent
from pixmill.client.watching import StreamEvent

__all__ = ["Acceptance", "Client", "NotRunningError", "RejectedError", "Result", "Sent", "StreamEvent"]
