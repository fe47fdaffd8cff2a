"""A server's answers: asked once, in order, kept, and asked for the way a chat is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from interp.errors import SpilloverError
from tests.fake_endpoint import serving
from unlearning.generation import AnswerLog
from unlearning.serving import Endpoint, answers_of, served_key
from unlearning.serving.endpoint import Completion

PROMPTS = [f"prompt {i}" for i in range(40)]


class StandIn:
    """An endpoint that answers with the last message, and fails after so many."""

    cache = "of the caller"

    def __init__(self, last: int = 10_000, concurrency: int = 2) -> None:
        self.model, self.address, self.concurrency, self.last = (
            "m",
            "http://x/v1",
            concurrency,
            last,
        )
        self.conversations: list[Any] = []

    def complete(
        self,
        conversations: Sequence[Sequence[dict[str, str]]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        if len(self.conversations) + len(conversations) > self.last:
            raise ConnectionError("gone")
        self.conversations += conversations
        return [
            Completion(f" re: {c[-1]['content']}\n", len(c[-1]["content"]) < max_tokens, 0, 0)
            for c in conversations
        ]


def asked(endpoint: StandIn, prompts: Sequence[str] = PROMPTS, **options: Any) -> list[Any]:
    return answers_of(cast(Endpoint, endpoint), prompts, **{"max_new_tokens": 9, **options})


def test_answers_are_in_order_with_text_and_no_ids() -> None:
    answers = asked(StandIn())
    assert [answer.text for answer in answers] == [f"re: {prompt}" for prompt in PROMPTS]
    assert all(answer.ids == () for answer in answers)
    assert [answer.finished for answer in answers] == [len(prompt) < 9 for prompt in PROMPTS]
    assert asked(StandIn(), []) == []


def test_the_same_prompt_is_asked_once() -> None:
    endpoint, counts = StandIn(), list[int]()
    assert len(asked(endpoint, ["a", "b", "a", "a"], progress=counts.append)) == 4
    assert len(endpoint.conversations) == 2 and sum(counts) == 4


def test_a_system_message_comes_first() -> None:
    endpoint = StandIn()
    asked(endpoint, ["a"], system="Be brief.")
    asked(endpoint, ["a"])
    user = {"role": "user", "content": "a"}
    assert endpoint.conversations == [[{"role": "system", "content": "Be brief."}, user], [user]]


@pytest.mark.parametrize("failing", [1, 7, 20])
def test_every_answer_that_came_is_kept(failing: int, tmp_path: Path) -> None:
    """Also those of a batch in which a later request fails."""
    said: list[str] = []
    fails = True

    def reply(messages: Sequence[dict[str, str]]) -> str:
        if fails and len(said) + 1 == failing:
            raise ConnectionError
        said.append(messages[-1]["content"])
        return said[-1]

    with serving(reply) as server:
        endpoint = Endpoint("m", server.url, concurrency=1, attempts=1)
        log = AnswerLog(tmp_path / "answers.jsonl", served_key(endpoint, max_new_tokens=9))
        with pytest.raises(SpilloverError):
            answers_of(endpoint, PROMPTS, max_new_tokens=9, log=log)
        assert len(said) == failing - 1
        fails = False
        answers = answers_of(endpoint, PROMPTS, max_new_tokens=9, log=log)
    assert [answer.text for answer in answers] == PROMPTS
    # But for the one that was under way when another failed.
    assert set(said) == set(PROMPTS) and len(said) <= len(PROMPTS) + 1
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    def log() -> AnswerLog:
        return AnswerLog(path, served_key(cast(Endpoint, StandIn()), max_new_tokens=9))

    with pytest.raises(ConnectionError):
        asked(StandIn(last=33), log=log())
    assert len(log()) == 32
    second = StandIn()
    assert asked(second, log=log()) == asked(StandIn())
    assert len(second.conversations) == len(PROMPTS) - 32


def test_the_key_is_of_server_model_and_settings() -> None:
    one, other = Endpoint("m", "http://x/v1"), Endpoint("m", "http://y/v1")
    keys = {
        served_key(one, max_new_tokens=9),
        served_key(one, max_new_tokens=10),
        served_key(one, max_new_tokens=9, system="Be brief."),
        served_key(other, max_new_tokens=9),
        served_key(Endpoint("n", "http://x/v1"), max_new_tokens=9),
    }
    assert len(keys) == 5
    assert served_key(Endpoint("m", "http://x/v1/"), max_new_tokens=9) in keys
