# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one place that sends a request: retry rules, redaction, errors.

Retry rules. A read (GET, or a query sent by POST) is repeated after 429, 5xx and transport faults, with jitter, and
honours Retry-After. A write is repeated only after 429 or when the connection was refused:
both mean that it surely had no effect. After anything else the caller must look first.

It stands on urllib and not on ansible.module_utils.urls, whose import takes 0.15 s in every module (it brings in
cryptography) and which reads the machine's certificates anew for each request, 0.06 s.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import random
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils._waiter import Clock, SystemClock

USER_AGENT = "podcycle.gpu/0.1.0 (ansible collection)"
MAX_BODY_BYTES = 64 * 1024 * 1024
_EXCERPT = 300
# Where distributions keep their certificate authorities, for a Python that was built with another place in mind.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")


@dataclass(frozen=True)
class Reply:
    status: int
    body: Any
    request_id: str | None = None
    date: str | None = None


@dataclass(frozen=True)
class RawReply:
    """What came over the wire, before anybody judged it."""

    status: int
    headers: dict[str, str]
    content: bytes


@dataclass
class HttpClient:
    """JSON over HTTP to one base URL with one bearer key."""

    base_url: str
    key: str
    label: str
    secrets: tuple[str, ...] = ()
    timeout_seconds: float = 30.0
    read_tries: int = 4
    connect_tries: int = 4
    rate_limit_wait_seconds: float = 120.0
    clock: Clock = field(default_factory=SystemClock)

    def get(self, path: str, query: dict[str, str] | None = None) -> Reply:
        return self._repeat("GET", path + ("?" + urllib.parse.urlencode(query) if query else ""), None)

    def post(self, path: str, body: dict[str, Any]) -> Reply:
        return self._repeat("POST", path, body)

    def ask(self, path: str, body: dict[str, Any]) -> Reply:
        """A POST that only reads, and so may be sent again."""
        try:
            return self._repeat("POST", path, body, reads=True)
        except errors.CloudError as err:
            err.effect = errors.EFFECT_NONE
            raise

    def put(self, path: str, body: dict[str, Any]) -> Reply:
        return self._repeat("PUT", path, body)

    def patch(self, path: str, body: dict[str, Any]) -> Reply:
        return self._repeat("PATCH", path, body)

    def delete(self, path: str) -> Reply:
        return self._repeat("DELETE", path, None)

    def events(self, path: str, query: dict[str, str], *, seconds: float, most: int) -> list[dict[str, Any]]:
        """The JSON payloads of an event stream (Server-Sent Events): the first `most`, or those that came before a silence of `seconds`."""
        path += "?" + urllib.parse.urlencode(query)
        request = urllib.request.Request(self.base_url.rstrip("/") + path, headers={**self._headers, "Accept": "text/event-stream"})
        found: list[dict[str, Any]] = []
        end = self.clock.monotonic() + 10 * seconds
        try:
            with self._opener.open(request, timeout=seconds) as reply:
                if not 200 <= reply.status < 300:
                    raw = self._read("GET", path, reply.status, reply.headers, reply)
                    raise self._error("GET", path, raw, self._parsed(raw), raw.headers.get("x-request-id"))
                while len(found) < most and self.clock.monotonic() < end and (line := reply.readline(65536)):
                    with suppress(ValueError):
                        payload = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else None
                        found += [payload] if isinstance(payload, dict) else []
        except urllib.error.URLError as err:
            # The headers come with the first line: silence is an empty log.
            if not isinstance(err.reason, TimeoutError):
                raise self._transport("GET", path, err.reason) from err
        except TimeoutError:
            pass
        except (OSError, http.client.HTTPException) as err:
            if not found:
                raise self._transport("GET", path, err) from err
        return found

    def redact(self, text: str) -> str:
        forms = {form for secret in (self.key, *self.secrets) if len(secret) >= 4 for form in (secret, json.dumps(secret)[1:-1])}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "***")
        return text

    def _repeat(self, method: str, path: str, body: dict[str, Any] | None, reads: bool = False) -> Reply:
        waited = 0.0
        tries = 0
        while True:
            tries += 1
            try:
                return self._once(method, path, body)
            except errors.RateLimited as err:
                pause = float(err.details.get("retry_after") or min(2.0**tries, 30.0)) * random.uniform(1.0, 1.2)
                if waited + pause > self.rate_limit_wait_seconds:
                    raise
            except (errors.Unreachable, errors.ServerError, errors.NoReply) as err:
                refused = isinstance(err, errors.Unreachable)
                if tries >= (self.connect_tries if refused else self.read_tries) or not (method == "GET" or reads or refused):
                    raise
                pause = min(0.5 * 2.0**tries, 8.0) * random.uniform(0.8, 1.2)
            waited += pause
            self.clock.sleep(pause)

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> Reply:
        raw = self._send(method, path, body)
        request_id = raw.headers.get("x-request-id")
        parsed: Any = None
        is_json = "json" in raw.headers.get("content-type", "")
        if raw.content:
            try:
                parsed = json.loads(raw.content) if is_json else None
            except ValueError:
                is_json = False
        if 200 <= raw.status < 300:
            if raw.content and not is_json:
                raise errors.NoReply(
                    f"{self._tried(method, path)}: HTTP {raw.status} with a body that is not JSON: {self._excerpt(raw.content)}",
                    effect=self._doubt(method),
                    status=raw.status,
                    request_id=request_id,
                )
            return Reply(raw.status, parsed, request_id, raw.headers.get("date"))
        raise self._error(method, path, raw, parsed if is_json else None, request_id)

    def _send(self, method: str, path: str, body: dict[str, Any] | None) -> RawReply:
        url = self.base_url.rstrip("/") + path
        headers, data = dict(self._headers), None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            with self._opener.open(urllib.request.Request(url, data, headers, method=method), timeout=self.timeout_seconds) as reply:
                return self._read(method, path, reply.status, reply.headers, reply)
        except urllib.error.URLError as err:
            raise self._transport(method, path, err.reason) from err
        except (OSError, http.client.HTTPException) as err:
            raise self._transport(method, path, err) from err

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}", "Accept": "application/json", "User-Agent": USER_AGENT}

    @staticmethod
    def _parsed(raw: RawReply) -> Any:
        with suppress(ValueError):
            return json.loads(raw.content) if "json" in raw.headers.get("content-type", "") else None
        return None

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        """Sends a request and hands back whatever answer came: no redirect is followed, no status is an exception."""
        opener = urllib.request.OpenerDirector()
        opener.add_handler(urllib.request.ProxyHandler({} if is_loopback(self.base_url) else None))
        opener.add_handler(urllib.request.UnknownHandler())
        opener.add_handler(urllib.request.HTTPHandler())
        if self.base_url.lower().startswith("https:"):
            opener.add_handler(urllib.request.HTTPSHandler(context=_trusting_context()))
        return opener

    def _read(self, method: str, path: str, status: int, headers: Any, stream: Any) -> RawReply:
        try:
            content = stream.read(MAX_BODY_BYTES + 1)
        except (OSError, http.client.HTTPException) as err:
            raise self._broken_off(method, path, status, err) from err
        if len(content) > MAX_BODY_BYTES:
            raise errors.SchemaError(f"{self._tried(method, path)}: the answer is larger than {MAX_BODY_BYTES >> 20} MiB", effect=self._doubt(method))
        found = {str(key).lower(): str(value) for key, value in (headers or {}).items()}
        # A read with a limit ends quietly when the other side hangs up early.
        announced = found.get("content-length", "")
        if announced.isdecimal() and len(content) < int(announced):
            raise self._broken_off(method, path, status, f"{len(content)} of {announced} bytes")
        return RawReply(status, found, content)

    def _broken_off(self, method: str, path: str, status: int, why: object) -> errors.NoReply:
        refused = 400 <= status < 500
        return errors.NoReply(
            f"{self._tried(method, path)}: HTTP {status}, but the answer broke off ({errors.clean_text(why, 100)})",
            effect=errors.EFFECT_NONE if refused else self._doubt(method),
        )

    def _transport(self, method: str, path: str, reason: object) -> errors.CloudError:
        text = errors.clean_text(reason, 160)
        if isinstance(reason, (ConnectionRefusedError, socket.gaierror)):
            return errors.Unreachable(
                f"{self._tried(method, path)}: cannot connect to {self.base_url} ({text})",
                hint=f"check the network, or whether the endpoint of {self.label} is right and running",
            )
        return errors.NoReply(f"{self._tried(method, path)}: no whole answer ({text})", effect=self._doubt(method))

    def _error(self, method: str, path: str, raw: RawReply, problem: Any, request_id: str | None) -> errors.CloudError:
        said = self._said(raw, problem)
        details: dict[str, Any] = {"status": raw.status, "request_id": request_id, "cloud": self.label, "method": method, "path": path.split("?")[0]}
        lead = f"{self._tried(method, path)}: HTTP {raw.status}"
        if raw.status == 429:
            return errors.RateLimited(f"{lead}: too many requests", retry_after=_seconds(raw.headers.get("retry-after")), **details)
        if raw.status in (401, 403, 404, 407) and not isinstance(problem, dict):
            # Also a 404: the page of a gateway proves no pod's end.
            return errors.ProxyRefused(
                f"{lead} from something that is not the API: {said}",
                hint="a proxy, a firewall or another program answered in the API's place; the key was not judged. See whether the endpoint is right, "
                "or try from another network",
                effect=errors.EFFECT_NONE if raw.status != 404 else self._doubt(method),
                **details,
            )
        kind: type[errors.CloudError] = {
            401: errors.Unauthorized,
            402: errors.PaymentRequired,
            403: errors.Forbidden,
            404: errors.NotFound,
            409: errors.Conflict,
        }.get(raw.status, errors.InvalidRequest)
        effect = errors.EFFECT_NONE
        if raw.status >= 500 or raw.status < 400:
            kind, effect = errors.ServerError, self._doubt(method)
        return kind(f"{lead}: {said}", effect=effect, said=said, **details)

    def _said(self, raw: RawReply, problem: Any) -> str:
        if isinstance(problem, dict):
            parts = [str(problem[key]) for key in ("title", "detail", "message", "error") if isinstance(problem.get(key), str)]
            extra = problem.get("errors")
            if isinstance(extra, list):
                parts.extend(_told(item) for item in extra[:5])
            if parts:
                return errors.clean_text(self.redact(": ".join(dict.fromkeys(parts))), _EXCERPT)
        return self._excerpt(raw.content)

    def _excerpt(self, content: bytes) -> str:
        text = self.redact(content[:65536].decode("utf-8", "replace"))
        if text.lstrip().startswith("<"):
            text = "a web page: " + " ".join(re.sub(r"(?is)<(style|script)\b.*?</\1>|<[^>]*>", " ", text).split())
        return errors.clean_text(text, 200) or "an empty answer"

    @contextmanager
    def reading(self, method: str, path: str) -> Iterator[None]:
        """What the answer to a request lacks is said with the request's name."""
        try:
            yield
        except errors.SchemaError as err:
            lead = self._tried(method, path)
            if err.message.startswith(lead):
                raise
            raise errors.SchemaError(f"{lead} answered with {err.message}", effect=self._doubt(method)) from err

    def _tried(self, method: str, path: str) -> str:
        return f"{method} {path.split('?')[0]} on {self.label}"

    @staticmethod
    def _doubt(method: str) -> str:
        return errors.EFFECT_NONE if method == "GET" else errors.EFFECT_UNKNOWN


def _told(item: Any) -> str:
    """One of several errors: a text, an object with a place and a message, or what it may be."""
    if isinstance(item, dict) and isinstance(item.get("message"), str):
        return f"{item['location']}: {item['message']}" if isinstance(item.get("location"), str) else str(item["message"])
    return item if isinstance(item, str) else json.dumps(item)


def _trusting_context() -> ssl.SSLContext:
    """TLS that checks the other side against this machine's certificate authorities."""
    context = ssl.create_default_context()
    places = ssl.get_default_verify_paths()
    if places.cafile is None and places.capath is None:
        bundle = next((path for path in _BUNDLES if Path(path).is_file()), None)
        if bundle is not None:
            context.load_verify_locations(bundle)
    return context


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine itself."""
    host = urllib.parse.urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, min(float(value), 3600.0)) if value is not None else None
    except ValueError:
        return None
