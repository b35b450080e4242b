"""The Python client of an installation. Everything public is here; the modules beside this one are how it is made."""

from daemon.client.client import Client, NotRunningError, Result
from daemon.client.sending import Acceptance, RejectedError, Sent
from daemon.client.watching import StreamEvent

__all__ = ["Acceptance", "Client", "NotRunningError", "RejectedError", "Result", "Sent", "StreamEvent"]
