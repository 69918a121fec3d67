# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""In front of every cloud API: request log, body limit, transport faults, hold."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from rehearsal.api.runpod_errors import problem
from rehearsal.faults import Fault, FaultBook, Hold
from rehearsal.keys import bearer
from rehearsal.times import now, rfc3339

BODY_LIMIT = 102_400
LOG_LENGTH = 50_000
SECRET_NAME = re.compile(r"key|token|secret|passw|credential", re.IGNORECASE)
TEXT_VALUE = re.compile(r'"(?:[^"\\\n]|\\.)*"')
API_KEY = re.compile(r"(?<=api_key=)[^&]*")
PROXY_PAGE = (
    "<!DOCTYPE html><html><head><title>Access denied | api.runpod.io used Cloudflare to restrict access</title></head>"
    "<body><h1>Error 1010</h1><p>error code: 1010</p><p>The owner of this website has banned your access based on your browser's signature.</p></body></html>"
)


class ConnectionAwareProtocol(H11Protocol):
    """Lets a fault close the TCP connection instead of answering."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class RequestLog:
    """The requests the clouds have seen, kept over a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: deque[dict[str, Any]] = deque(maxlen=LOG_LENGTH)
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines()[-LOG_LENGTH:]:
                if line.endswith("}"):
                    self._entries.append(json.loads(line))
        self._n: int = self._entries[-1]["n"] if self._entries else 0

    def open(self, method: str, path: str, query: str, key: str) -> dict[str, Any]:
        self._n += 1
        entry: dict[str, Any] = {"n": self._n, "time": rfc3339(now()), "method": method, "path": path, "query": query, "key": key}
        entry |= {"status": None, "fault": None}
        self._entries.append(entry)
        return entry

    def close(self, entry: dict[str, Any]) -> None:
        with open(self._path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(entry) + "\n")

    def since(self, n: int) -> list[dict[str, Any]]:
        return [entry for entry in self._entries if entry["n"] > n]

    def clear(self) -> None:
        self._entries.clear()
        self._path.unlink(missing_ok=True)


def redact(value: Any, name: str = "") -> Any:
    if isinstance(value, dict) and set(value) == {"key", "value"}:
        # A variable of a container, as GraphQL writes it.
        return {"key": value["key"], "value": redact(value["value"], str(value["key"]))}
    if isinstance(value, dict):
        return {key: redact(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [redact(one, name) for one in value]
    if isinstance(value, str) and SECRET_NAME.search(name) and "PUBLIC_KEY" not in name:
        return "(redacted)"
    return value


class Gate:
    """ASGI middleware around the paths of the clouds; everything else passes untouched."""

    def __init__(self, app: ASGIApp, faults: FaultBook, hold: Hold, log: RequestLog, key_label: Callable[[str | None], str]) -> None:
        self.app = app
        self.faults = faults
        self.hold = hold
        self.log = log
        self.key_label = key_label

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/_control"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode("latin-1")
        in_query = API_KEY.search(query)
        label = self.key_label(bearer(headers.get("authorization")) or (in_query[0] if in_query else None))
        method, path = scope["method"], scope["path"]
        entry = self.log.open(method, path, API_KEY.sub("(redacted)", query), label)
        try:
            body = await read_body(receive)
            note_body(entry, body)
            await self.hold.pass_through(method, path, "before", entry)
            if body is None:
                response: Response | None = problem(413, "Payload Too Large", "The request body is larger than 102400 bytes.")
            else:
                response = await self._before(scope, method, path, entry)
            if response is None and entry["fault"] is None:
                assert body is not None
                await self._through(scope, body, receive, send, entry)
            elif response is not None:
                entry["status"] = response.status_code
                await response(scope, receive, send)
        finally:
            self.log.close(entry)

    async def _before(self, scope: Scope, method: str, path: str, entry: dict[str, Any]) -> Response | None:
        """Faults that hit before the request takes effect."""
        fault = self._take(entry, "timeout_before_effect", method, path)
        if fault is not None:
            await asyncio.sleep(float(fault.params.get("seconds", 30.0)))
            scope["state"]["transport"].abort()
            return None
        if self._take(entry, "proxy_403", method, path):
            return Response(PROXY_PAGE, 403, {"server": "cloudflare", "cf-ray": "0000000000000000-REH"}, "text/html")
        fault = self._take(entry, "429", method, path)
        if fault is not None:
            after = fault.params.get("retry_after", 1)
            return problem(429, "Too Many Requests", "Rate limit exceeded. Please slow down.", headers={} if after is None else {"retry-after": str(after)})
        if self._take(entry, "error_401", method, path):
            return problem(401, "Unauthorized", "The API key is invalid.")
        if self._take(entry, "error_500", method, path):
            return problem(500, "Internal Server Error", "Something went wrong. Please try again later or contact support.")
        return None

    def _take(self, entry: dict[str, Any], kind: str, method: str, path: str) -> Fault | None:
        fault = self.faults.take(kind, method, path)
        if fault is not None:
            entry["fault"] = kind
        return fault

    async def _through(self, scope: Scope, body: bytes, receive: Receive, send: Send, entry: dict[str, Any]) -> None:
        """Run the API, then let a fault spoil the answer to what took effect. A stream of events goes out as it comes."""
        messages: list[Message] = []
        sent = streams = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: Message) -> None:
            nonlocal streams
            if (b"content-type", b"text/event-stream; charset=utf-8") in message.get("headers", ()):
                streams = True
                entry["status"] = message["status"]
            if streams:
                await send(message)
            else:
                messages.append(message)

        scope.setdefault("state", {})["log_entry"] = entry
        await self.app(scope, replay, collect)
        if streams:
            return
        method, path = scope["method"], scope["path"]
        status = messages[0]["status"]
        await self.hold.pass_through(method, path, "after", entry)
        if status < 400 and await self._spoil(scope, method, path, messages, send, entry):
            return
        entry["status"] = status
        for message in messages:
            await send(message)

    async def _spoil(self, scope: Scope, method: str, path: str, messages: list[Message], send: Send, entry: dict[str, Any]) -> bool:
        if self._take(entry, "error_500_after_effect", method, path):
            entry["status"] = 500
            response = problem(500, "Internal Server Error", "Something went wrong. Please try again later or contact support.")
            await response(scope, _nothing, send)
            return True
        fault = self._take(entry, "no_reply", method, path)
        if fault is not None:
            await asyncio.sleep(float(fault.params.get("seconds", 0.0)))
            scope["state"]["transport"].close()
            return True
        fault = self._take(entry, "reply_cut", method, path)
        if fault is not None:
            entry["status"] = messages[0]["status"]
            whole = b"".join(message.get("body", b"") for message in messages[1:])
            await send(messages[0])
            await send({"type": "http.response.body", "body": whole[: int(fault.params.get("bytes", 40))], "more_body": True})
            scope["state"]["transport"].close()
            return True
        return False


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def read_body(receive: Receive) -> bytes | None:
    """The whole body, or None when it is over the limit."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_LIMIT:
            return None
        if not message.get("more_body"):
            return b"".join(parts)


def note_body(entry: dict[str, Any], body: bytes | None) -> None:
    if not body:
        return
    entry["body_sha256"] = hashlib.sha256(body).hexdigest()
    try:
        parsed = json.loads(body)
        if isinstance(parsed, dict) and isinstance(parsed.get("query"), str):
            # Clients paste values into the text of a query.
            parsed["query"] = TEXT_VALUE.sub('"..."', parsed["query"])
        entry["body"] = redact(parsed)
    except (ValueError, RecursionError):
        entry["body"] = None
