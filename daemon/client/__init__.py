"""The Python client of an installation. The public names are here; the other modules of the package are internal."""

from daemon.client.client import Client, NotRunningError, Result
from daemon.client.sending import Acceptance, RejectedError, Sent
from daemon.client.watching import StreamEvent

__all__ = ["Acceptance", "Client", "NotRunningError", "RejectedError", "Result", "Sent", "StreamEvent"]
