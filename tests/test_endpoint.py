"""Chat completions from a server: asked once, retried, bounded; one clear error for the rest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from interp.errors import InputError, SpilloverError
from tests.fake_endpoint import FakeEndpoint, completion, drop, says, serving, status
from unlearning.serving import Endpoint
from unlearning.serving.endpoint import Completion

Make = Callable[..., Endpoint]


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SPILLOVER_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture
def server() -> Iterator[FakeEndpoint]:
    with serving(lambda messages: f"re: {messages[-1]['content']}") as fake:
        yield fake


@pytest.fixture
def endpoint(server: FakeEndpoint) -> Make:
    def make(**options: Any) -> Endpoint:
        return Endpoint("m", server.url, **options)

    return make


def asks(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


def test_answers_come_in_order_and_say_what_they_took(endpoint: Make) -> None:
    texts = [str(i) for i in range(20)]
    seen: list[int] = []
    found = endpoint().complete(asks(*texts), max_tokens=5, progress=seen.append)
    assert found == [Completion(f"re: {text}", True, 7, 2) for text in texts]
    assert seen == [1] * 20


def test_nothing_asked_is_nothing_done(endpoint: Make, server: FakeEndpoint) -> None:
    assert endpoint().complete([], max_tokens=5) == []
    assert server.requests == []


def test_a_request_is_what_was_asked(endpoint: Make, server: FakeEndpoint) -> None:
    conversation = [{"role": "system", "content": "s"}, {"role": "user", "content": "u\ud83d"}]
    endpoint().complete([conversation], max_tokens=5, temperature=0.5)
    (request,) = server.requests
    whole = [conversation[0], {"role": "user", "content": "u?"}]
    assert request == {"model": "m", "messages": whole, "max_tokens": 5, "temperature": 0.5}


# The cache


def test_nothing_is_asked_twice(endpoint: Make, server: FakeEndpoint, tmp_path: Path) -> None:
    cached = endpoint(cache=tmp_path)
    conversations = asks("a", "b", "a")
    assert cached.to_ask(conversations, max_tokens=5) == [0, 1]
    seen: list[int] = []
    first = cached.complete(conversations, max_tokens=5, progress=seen.append)
    assert len(server.requests) == 2 and sorted(seen) == [1, 2]
    assert cached.to_ask(conversations, max_tokens=5) == []
    seen.clear()
    assert cached.complete(conversations, max_tokens=5, progress=seen.append) == first
    assert len(server.requests) == 2 and seen == [3]


@pytest.mark.parametrize("change", ["model", "url", "max_tokens", "temperature", "text", "role"])
def test_whatever_the_answer_depends_on_is_in_the_key(
    endpoint: Make, server: FakeEndpoint, tmp_path: Path, change: str
) -> None:
    asked: dict[str, Any] = {"max_tokens": 5, "temperature": 0.0}
    endpoint(cache=tmp_path).complete(asks("a"), **asked)
    conversation = asks("a")
    other = endpoint(cache=tmp_path)
    if change == "model":
        other = Endpoint("other", server.url, tmp_path)
    elif change == "url":
        other = Endpoint("m", server.url.replace("127.0.0.1", "localhost"), tmp_path)
    elif change in asked:
        asked[change] += 1
    else:
        conversation[0][0]["content" if change == "text" else "role"] = "system"
    assert other.to_ask(conversation, **asked) == [0]


def test_a_slash_at_the_end_of_the_address_changes_nothing(
    endpoint: Make, server: FakeEndpoint, tmp_path: Path
) -> None:
    endpoint(cache=tmp_path).complete(asks("a"), max_tokens=5)
    assert Endpoint("m", server.url + "/", tmp_path).to_ask(asks("a"), max_tokens=5) == []


def test_what_was_answered_before_a_failure_is_kept(
    endpoint: Make, server: FakeEndpoint, tmp_path: Path
) -> None:
    cached = endpoint(cache=tmp_path, concurrency=1, attempts=1)
    cached.complete(asks("a"), max_tokens=5)
    server.failures = [lambda h: server_answers(h, "b"), status(500)]
    with pytest.raises(SpilloverError, match="kept"):
        cached.complete(asks("a", "b", "c", "d"), max_tokens=5)
    assert cached.to_ask(asks("a", "b", "c", "d"), max_tokens=5) == [2, 3]


def server_answers(handler: Any, text: str) -> None:
    says(completion(text))(handler)


def test_a_torn_file_is_asked_again(endpoint: Make, server: FakeEndpoint, tmp_path: Path) -> None:
    cached = endpoint(cache=tmp_path)
    cached.complete(asks("a"), max_tokens=5)
    (file,) = tmp_path.rglob("*.json")
    file.write_text('{"text": "re', encoding="utf-8")
    assert cached.complete(asks("a"), max_tokens=5)[0].text == "re: a"
    assert len(server.requests) == 2


def test_processes_may_share_a_folder(endpoint: Make, tmp_path: Path) -> None:
    texts = [str(i) for i in range(30)]
    found: list[list[Completion]] = []

    def run() -> None:
        found.append(endpoint(cache=tmp_path).complete(asks(*texts), max_tokens=5))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[c.text for c in run] for run in found] == [[f"re: {t}" for t in texts]] * 3
    assert len(list(tmp_path.rglob("*"))) == len({p.parent for p in tmp_path.rglob("*.json")}) + 30


# Failures that pass


@pytest.mark.parametrize("failure", [status(429), status(500), status(503), status(408), drop])
def test_passing_failures_are_retried(endpoint: Make, server: FakeEndpoint, failure: Any) -> None:
    server.failures = [failure, failure]
    assert endpoint().complete(asks("a"), max_tokens=5)[0].text == "re: a"
    assert len(server.requests) == 3


def test_a_lost_request_is_retried(endpoint: Make, server: FakeEndpoint) -> None:
    gone = threading.Event()
    server.failures = [lambda _handler: gone.wait(5)]
    assert endpoint(timeout=0.2).complete(asks("a"), max_tokens=5)[0].text == "re: a"
    gone.set()


def test_the_server_says_how_long_to_wait(endpoint: Make, server: FakeEndpoint) -> None:
    server.failures = [status(429, retry_after=0.4)]
    endpoint().complete(asks("a"), max_tokens=5)
    first, second = server.times
    assert second - first >= 0.4


def test_attempts_are_counted(endpoint: Make, server: FakeEndpoint) -> None:
    server.failures = [status(500)] * 9
    with pytest.raises(SpilloverError, match="failed 3 times.*500.*try again") as caught:
        endpoint(attempts=3).complete(asks("a"), max_tokens=5)
    assert len(server.requests) == 3
    assert not isinstance(caught.value, InputError)


def test_a_pause_of_hours_is_not_waited_for(endpoint: Make, server: FakeEndpoint) -> None:
    server.failures = [status(429, retry_after=7200)]
    with pytest.raises(SpilloverError, match="7200 s"):
        endpoint().complete(asks("a"), max_tokens=5)


def test_no_more_are_asked_at_a_time_than_agreed(endpoint: Make, server: FakeEndpoint) -> None:
    server.seconds = 0.02
    endpoint(concurrency=3).complete(asks(*map(str, range(24))), max_tokens=5)
    assert server.most_at_once == 3


# Failures that do not


def test_a_wrong_key(endpoint: Make, server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "right"
    with pytest.raises(InputError, match="refused the key .401.*OPENAI_API_KEY"):
        endpoint().complete(asks("a"), max_tokens=5)
    monkeypatch.setenv("OPENAI_API_KEY", "right")
    assert endpoint().complete(asks("a"), max_tokens=5)[0].finished


def test_an_unknown_model(endpoint: Make, server: FakeEndpoint) -> None:
    server.models = ("other",)
    with pytest.raises(InputError, match="has no model m.*does not exist"):
        endpoint().complete(asks("a", "b"), max_tokens=5)


def test_an_address_without_its_path(server: FakeEndpoint) -> None:
    with pytest.raises(InputError, match="mostly in /v1"):
        Endpoint("m", server.url.removesuffix("/v1")).complete(asks("a"), max_tokens=5)


def test_an_account_that_is_empty_is_not_waited_for(endpoint: Make, server: FakeEndpoint) -> None:
    server.failures = [status(429, code="insufficient_quota")]
    with pytest.raises(InputError, match="nothing left to spend"):
        endpoint().complete(asks("a"), max_tokens=5)
    assert len(server.requests) == 1


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("tried again"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(InputError, match=f"nothing answers at {url}"):
        Endpoint("m", url, attempts=100).complete(asks("a"), max_tokens=5)


@pytest.mark.parametrize(
    "junk",
    [
        says("<html>Welcome</html>", kind="text/html"),
        says("<html>Welcome</html>"),
        says({"hello": "world"}),
        says([]),
        says({"choices": []}),
        says({"choices": [{"message": {"content": ["a"]}}]}),
        says({"error": {"message": "in a body of status 200"}}),
    ],
)
def test_an_answer_that_is_not_the_protocols(
    endpoint: Make, server: FakeEndpoint, junk: Any
) -> None:
    server.failures = [junk]
    with pytest.raises(InputError, match="but not with chat completions"):
        endpoint().complete(asks("a"), max_tokens=5)


def test_a_request_that_is_not_taken(endpoint: Make, server: FakeEndpoint) -> None:
    server.failures = [status(400)]
    with pytest.raises(InputError, match="did not take a request.*400: try again"):
        endpoint().complete(asks("a"), max_tokens=5)


def test_no_key_for_a_server_that_wants_one() -> None:
    with pytest.raises(InputError, match="set OPENAI_API_KEY"):
        Endpoint("m").complete(asks("a"), max_tokens=5)


def test_an_address_that_is_none() -> None:
    with pytest.raises(InputError, match="localhost:8000 is not an address"):
        Endpoint("m", "localhost:8000")


def test_the_address_may_stand_in_the_environment(
    server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert Endpoint("m").complete(asks("a"), max_tokens=5)[0].text == "re: a"


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"pip install 'spillover\[judge\]'"):
        Endpoint("m")


# What servers do differently


def test_models_that_take_other_parameters(endpoint: Make, server: FakeEndpoint) -> None:
    server.refuses = ("max_tokens", "temperature")
    found = endpoint(concurrency=2).complete(asks(*"abcdef"), max_tokens=5)
    assert [c.text for c in found] == [f"re: {letter}" for letter in "abcdef"]
    assert server.requests[-1]["max_completion_tokens"] == 5
    assert set(server.requests[-1]) == {"model", "messages", "max_completion_tokens"}
    # Two complaints for each of the first two requests at most; later ones know.
    assert len(server.requests) <= 6 + 4


def test_an_answer_that_a_limit_or_a_filter_ended(endpoint: Make, server: FakeEndpoint) -> None:
    server.finish_reason = "length"
    assert not endpoint().complete(asks("a"), max_tokens=5)[0].finished
    server.finish_reason = "eos_token"  # as some servers say it
    assert endpoint().complete(asks("c"), max_tokens=5)[0].finished
    server.failures = [says(completion(None)), status(400, code="content_filter")]
    found = endpoint(concurrency=1).complete(asks("a", "b"), max_tokens=5)
    assert [(c.text, c.finished) for c in found] == [("", True), ("", False)]


# Stopping


def test_the_first_error_ends_it(endpoint: Make, server: FakeEndpoint) -> None:
    server.failures = [*[lambda h: server_answers(h, "soon")] * 3, status(400)]
    server.seconds = 0.01
    with pytest.raises(InputError, match="did not take a request"):
        endpoint(concurrency=1).complete(asks(*map(str, range(100))), max_tokens=5)
    assert 4 <= len(server.requests) < 100


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs are started deaf to it
from unlearning.serving.endpoint import Endpoint
asks = [[{"role": "user", "content": str(i)}] for i in range(100)]
Endpoint("m", sys.argv[1], sys.argv[2], concurrency=4).complete(
    asks, max_tokens=5, progress=lambda n: print("done", flush=True)
)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_an_interrupt_ends_at_once_and_loses_nothing(server: FakeEndpoint, tmp_path: Path) -> None:
    held = threading.Event()
    server.failures = [*[lambda h: server_answers(h, "soon")] * 6, *[lambda _h: held.wait(100)] * 4]
    command = [sys.executable, "-c", INTERRUPTED, server.url, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(6):
            assert process.stdout.readline() == b"done\n"
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)  # and not the 120 s that the requests on their way may take
        assert b"KeyboardInterrupt" in process.stderr.read()
    held.set()
    assert len(list(tmp_path.rglob("*.json"))) == 6
    assert not list(tmp_path.rglob(".*"))
