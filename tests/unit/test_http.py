# Copyright: (c) 2026, podcycle.gpu contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is repeated and what never is, what each answer means, and what stays secret."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podcycle.gpu.plugins.module_utils import _errors as errors
from ansible_collections.podcycle.gpu.plugins.module_utils import _http
from ansible_collections.podcycle.gpu.plugins.module_utils._errors import failure
from ansible_collections.podcycle.gpu.plugins.module_utils._http import HttpClient, is_loopback

KEY = "rpa_0123456789abcdef"
SECRET = 'hush"\\hush-0123'
PROBLEM = "application/problem+json"


@pytest.fixture
def client(stub: Any, clock: Any) -> HttpClient:
    return HttpClient(stub.url, KEY, "runpod", secrets=("hush", SECRET), clock=clock, timeout_seconds=5)


def send(client: HttpClient, method: str) -> Any:
    body = {"name": "x"}
    writes = {"POST": lambda: client.post("/pods", body), "PUT": lambda: client.put("/pods", body), "PATCH": lambda: client.patch("/pods", body)}
    return {"GET": lambda: client.get("/pods"), "ASK": lambda: client.ask("/pods", body), "DELETE": lambda: client.delete("/pods/p1"), **writes}[method]()


def test_a_read_outlives_errors_and_cut_answers(client: HttpClient, stub: Any, told: Any, clock: Any) -> None:
    stub.tell(told(500, {"title": "Oops"}), told(200, {"pods": [1, 2, 3]}, cut=0), told(silent=True), told(200, {"pods": []}))
    assert client.get("/pods").body == {"pods": []}
    assert stub.calls == [("GET", "/v2/pods")] * 4
    assert len(clock.slept) == 3 and clock.slept == sorted(clock.slept)


def test_a_read_gives_up_after_four_tries(client: HttpClient, stub: Any, told: Any) -> None:
    stub.tell(told(503, {"title": "Busy"}))
    with pytest.raises(errors.ServerError) as caught:
        client.get("/pods")
    assert len(stub.seen) == 4 and caught.value.effect == "none"


def test_a_question_by_post_is_a_read(client: HttpClient, stub: Any, told: Any) -> None:
    stub.tell(told(500, {"title": "Oops"}), told(200, {"data": {}}, cut=3), told(200, {"data": {}}))
    assert send(client, "ASK").body == {"data": {}} and stub.calls == [("POST", "/v2/pods")] * 3
    stub.tell(told(503, {"title": "Busy"}))
    with pytest.raises(errors.ServerError) as caught:
        send(client, "ASK")
    assert len(stub.seen) == 4 and caught.value.effect == "none"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500, "body": {"title": "Oops"}},
        {"status": 200, "body": {"id": "abcdef"}, "cut": 4},
        {"status": 500, "body": {"title": "a long answer"}, "cut": 4},
        {"silent": True},
        {"status": 200, "body": b"<html>", "content_type": "text/html"},
        {"status": 200, "body": b"{torn", "content_type": "application/json"},
        {"status": 302, "headers": {"Location": "/v2/elsewhere"}},
    ],
    ids=["500", "cut", "500-cut", "no-reply", "html", "torn-json", "redirect"],
)
def test_a_write_in_doubt_is_sent_once_and_its_effect_is_unknown(client: HttpClient, stub: Any, told: Any, method: str, answer: dict[str, Any]) -> None:
    stub.tell(told(**answer))
    with pytest.raises(errors.CloudError) as caught:
        send(client, method)
    assert len(stub.seen) == 1
    assert caught.value.effect == "unknown"


def test_a_write_that_times_out_is_sent_once(stub: Any, told: Any, clock: Any) -> None:
    import time

    stub.tell(told(201, {"id": "p1"}, before=lambda: time.sleep(0.6)))
    with pytest.raises(errors.NoReply) as caught:
        HttpClient(stub.url, KEY, "runpod", clock=clock, timeout_seconds=0.2).post("/pods", {})
    assert len(stub.seen) == 1 and caught.value.effect == "unknown"


@pytest.mark.parametrize("method", ["GET", "ASK", "POST", "PUT", "PATCH", "DELETE"])
def test_too_many_requests_waits_for_every_verb(client: HttpClient, stub: Any, told: Any, clock: Any, method: str) -> None:
    stub.tell(told(429, {"title": "Slow down"}, headers={"Retry-After": "7"}), told(429, {"title": "Slow down"}), told(200, {}))
    send(client, method)
    assert len(stub.seen) == 3
    assert clock.slept[0] >= 7, "an announced pause is not shortened"
    assert 0 < clock.slept[1] < 7


@pytest.mark.parametrize(("after", "tries"), [("3600", 1), ("soon", 5), ("nan", 5), ("0", 5)])
def test_too_many_requests_for_too_long_is_no_effect(client: HttpClient, stub: Any, told: Any, after: str, tries: int) -> None:
    stub.tell(told(429, {"title": "Slow down"}, headers={"Retry-After": after}))
    with pytest.raises(errors.RateLimited) as caught:
        client.post("/pods", {})
    assert caught.value.effect == "none"
    assert 1 <= len(stub.seen) <= tries + 3


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection_is_tried_again_and_had_no_effect(clock: Any, method: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    client = HttpClient(f"http://127.0.0.1:{port}/v2", KEY, "runpod", clock=clock)
    with pytest.raises(errors.Unreachable) as caught:
        send(client, method)
    assert caught.value.effect == "none" and len(clock.slept) == 3
    assert "endpoint" in str(caught.value) and str(port) in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequest), (401, errors.Unauthorized), (402, errors.PaymentRequired), (403, errors.Forbidden), (404, errors.NotFound),
        (409, errors.Conflict), (413, errors.InvalidRequest), (422, errors.InvalidRequest),
    ],
)  # fmt: skip
def test_a_clear_no_has_no_effect_and_says_what_the_api_said(client: HttpClient, stub: Any, told: Any, status: int, kind: type) -> None:
    body = {"title": "Nope", "detail": "because of this", "errors": [{"location": "body.gpu", "message": "odd"}]}
    stub.tell(told(status, body, content_type=PROBLEM, headers={"X-Request-Id": "req_1"}))
    with pytest.raises(errors.CloudError) as caught:
        client.post("/pods", {})
    assert caught.value.__class__ is kind and caught.value.effect == "none" and len(stub.seen) == 1
    for part in ("POST /pods on runpod", f"HTTP {status}", "Nope: because of this", "body.gpu"):
        assert part in str(caught.value)
    assert failure(caught.value)["failure"]["details"]["request_id"] == "req_1"


@pytest.mark.parametrize("status", [401, 403])
def test_a_proxys_page_is_no_verdict_on_the_key(client: HttpClient, stub: Any, told: Any, status: int) -> None:
    stub.tell(told(status, b"<html><title>Access denied</title>error code: 1010</html>", content_type="text/html"))
    with pytest.raises(errors.ProxyRefused) as caught:
        client.get("/pods")
    assert "1010" in str(caught.value) and "the key was not judged" in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_never_followed(client: HttpClient, stub: Any, told: Any, status: int) -> None:
    stub.tell(told(status, headers={"Location": "/v2/elsewhere"}))
    with pytest.raises(errors.CloudError):
        client.post("/pods", {})
    assert stub.calls == [("POST", "/v2/pods")]


@pytest.mark.parametrize(
    "body",
    [
        {"title": f"bad key {KEY}", "detail": f"env {SECRET}"},
        {"errors": [{"location": "body.env", "value": SECRET, "key": KEY}, f"also {SECRET}"]},
        f"<p>{KEY} {SECRET} {json.dumps(SECRET)}".encode(),
        b"x" * 150 + KEY.encode() + b"x" * 3000,
    ],
    ids=["text", "nested", "page", "long"],
)
@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_no_message_tells_a_key_or_a_secret(client: HttpClient, stub: Any, told: Any, body: Any, status: int) -> None:
    stub.tell(told(status, body, content_type="text/html" if isinstance(body, bytes) or status == 200 else PROBLEM))
    with pytest.raises(errors.CloudError) as caught:
        client.post("/pods", {"env": {"A": SECRET}})
    text = json.dumps(failure(caught.value)) + repr(caught.value.args)
    for hidden in (KEY, "hush", "0123"):
        assert hidden not in text
    assert "***" in text


def test_a_secret_at_the_edge_of_the_excerpt_is_not_told_by_half(stub: Any, told: Any, clock: Any) -> None:
    secret = "begin-" + "s3cr3t" * 600
    stub.tell(told(500, b"echo: " + secret.encode(), content_type="text/plain"))
    with pytest.raises(errors.ServerError) as caught:
        HttpClient(stub.url, KEY, "runpod", secrets=(secret,), clock=clock).post("/pods", {})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(("method", "effect"), [("GET", "none"), ("POST", "unknown")])
def test_an_endless_body_is_refused(client: HttpClient, stub: Any, told: Any, monkeypatch: pytest.MonkeyPatch, method: str, effect: str) -> None:
    monkeypatch.setattr(_http, "MAX_BODY_BYTES", 1 << 20)
    stub.tell(told(200, b" " * ((1 << 20) + 2)))
    with pytest.raises(errors.SchemaError) as caught:
        send(client, method)
    assert caught.value.effect == effect


def test_a_request_is_json_with_the_key_in_its_header_alone(client: HttpClient, stub: Any, told: Any) -> None:
    stub.tell(told(200, {"ok": True}), told(204))
    assert client.get("/pods", {"limit": "1", "cursor": "a b&c"}).body == {"ok": True}
    assert client.delete("/pods/p1").body is None
    assert stub.calls == [("GET", "/v2/pods?limit=1&cursor=a+b%26c"), ("DELETE", "/v2/pods/p1")]
    assert stub.headers[0]["authorization"] == f"Bearer {KEY}"
    # RunPod's proxy turns away the user agents of programming languages.
    assert stub.headers[0]["user-agent"].startswith("podcycle.gpu/")


@pytest.mark.parametrize(
    ("url", "yes"),
    [
        ("http://127.0.0.1:1/v2", True), ("http://localhost/v2", True), ("http://[::1]:8/v2", True), ("https://api.runpod.io/v2", False),
        ("http://127.0.0.1.evil.example/v2", False), ("http://localhost@evil.example/", False), ("nonsense", False),
    ],
)  # fmt: skip
def test_only_this_machine_is_loopback(url: str, yes: bool) -> None:
    assert is_loopback(url) is yes


def test_tls_trusts_the_machines_authorities_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    certificate = tmp_path / "server.pem"
    subject = ["-subj", "/CN=rehearsal", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", *subject]
    subprocess.run([*made, "-keyout", str(tmp_path / "key.pem"), "-out", str(certificate)], check=True, capture_output=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"pods": []}')

        def log_message(self, *words: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"https://127.0.0.1:{server.server_address[1]}/v2"
    try:
        with pytest.raises(errors.NoReply, match="CERTIFICATE_VERIFY_FAILED"):
            HttpClient(url, KEY, "runpod", clock=clock, timeout_seconds=5).get("/pods")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert HttpClient(url, KEY, "runpod", clock=clock, timeout_seconds=5).get("/pods").body == {"pods": []}
    finally:
        server.shutdown()
        server.server_close()
