"""A server on this machine that speaks OpenAI's completions, and fails as it is told to.

``with serving(reply) as server:`` gives one whose ``url`` an endpoint can be pointed at. It answers
every conversation with ``reply(messages)``, and a whole prompt as if it were one message of the
user; what it was sent is in ``server.requests``. Failures are scripted:
``server.failures.append(status(429, retry_after=0.2))`` befalls the next request.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Messages = list[dict[str, str]]
Failure = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class FakeEndpoint:
    """What the server does, and what it saw.

    Attributes:
        reply: the text that answers a conversation.
        key: the only key that it takes; any if ``None``.
        models: the only models that it knows; any if ``None``.
        refuses: parameters that it answers with status 400.
        seconds: how long every answer takes.
        finish_reason: of every answer.
        requests: bodies, in the order in which they came, failures included.
        times: of the requests, by a monotonic clock.
        most_at_once: requests that were on their way together.
    """

    reply: Callable[[Messages], str]
    key: str | None = None
    models: tuple[str, ...] | None = None
    refuses: tuple[str, ...] = ()
    seconds: float = 0.0
    finish_reason: str = "stop"
    url: str = ""
    failures: list[Failure] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(reply: Callable[[Messages], str] = lambda _: "yes", **options: Any) -> Iterator[Any]:
    """A :class:`FakeEndpoint` that answers for as long as the block lasts."""
    fake = FakeEndpoint(reply, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                fake.requests.append(body)
                fake.times.append(time.monotonic())
                fake.at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.at_once)
                failure = fake.failures.pop(0) if fake.failures else None
            try:
                time.sleep(fake.seconds)
                failure(self) if failure else self.answer(body)
            finally:
                with fake.lock:
                    fake.at_once -= 1

        def answer(self, body: dict[str, Any]) -> None:
            wanted = fake.refuses and next((n for n in fake.refuses if n in body), None)
            whole = self.path == "/v1/completions"
            if not whole and self.path != "/v1/chat/completions":
                send(self, 404, error("no such page"))
            elif fake.key and self.headers["Authorization"] != f"Bearer {fake.key}":
                send(self, 401, error("Incorrect API key provided", code="invalid_api_key"))
            elif fake.models is not None and body["model"] not in fake.models:
                send(self, 404, error("The model does not exist", code="model_not_found"))
            elif wanted:
                complaint = f"Unsupported parameter: '{wanted}'"
                send(self, 400, error(complaint, code="unsupported_parameter", param=wanted))
            else:
                messages = [{"role": "user", "content": body["prompt"]}] if whole else None
                answer = completion(fake.reply(messages or body["messages"]), fake.finish_reason)
                if whole:
                    choice = answer["choices"][0]
                    choice["text"] = choice.pop("message")["content"]
                send(self, 200, answer)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass  # clients that went away are what some tests are about

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    """The body of an answer."""
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def error(message: str, **more: Any) -> dict[str, Any]:
    """The body of a failure."""
    return {"error": {"message": message, "type": "fake", "param": None, "code": None, **more}}


def send(
    handler: BaseHTTPRequestHandler,
    code: int,
    body: Any,
    *,
    kind: str = "application/json",
    headers: dict[str, str] | None = None,
) -> None:
    """Send a whole answer; ``body`` as it is if it is text, else as JSON."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode("utf-8")
    handler.send_response(code)
    for name, value in {"Content-Type": kind, "Content-Length": str(len(data))}.items():
        handler.send_header(name, value)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def status(number: int, *, retry_after: float | None = None, **more: Any) -> Failure:
    """A failure with this HTTP status."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return lambda handler: send(handler, number, error("try again", **more), headers=headers)


def drop(handler: BaseHTTPRequestHandler) -> None:
    """The connection breaks before an answer."""
    handler.close_connection = True
    handler.connection.close()


def says(body: Any, *, kind: str = "application/json") -> Failure:
    """Status 200 with any body."""
    return lambda handler: send(handler, 200, body, kind=kind)
