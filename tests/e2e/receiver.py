"""A server for callbacks: it keeps the events with a valid signature (Standard Webhooks) and counts the others."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = b"twenty-four bytes of key"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """Answers 204, or what `statuses` says first."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.events: dict[str, list[dict[str, Any]]] = {}  # by webhook-id: each try of it
        self.forged = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.take(dict(self.headers), body)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?key=planted-query"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, headers: dict[str, str], body: bytes) -> None:
        given = {name.lower(): value for name, value in headers.items()}
        signed = f"{given['webhook-id']}.{given['webhook-timestamp']}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        if expected in given["webhook-signature"].split(" "):
            self.events.setdefault(given["webhook-id"], []).append(json.loads(body))
        else:
            self.forged += 1

    def kinds(self) -> list[str]:
        """One for each id, however often it arrived."""
        return [tries[0]["type"] for tries in self.events.values()]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
