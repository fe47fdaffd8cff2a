"""Answers survive a kill at any byte, are never generated twice and never mixed up."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import MachineError
from unlearning.generation import Answer, AnswerLog, AskedPrompt, answer_all, each_asked

TEXTS = st.text(max_size=20)
ANSWERS = st.builds(
    Answer, st.lists(st.integers(0, 200_000), max_size=5).map(tuple), TEXTS, st.booleans()
)
BATCHES = st.lists(
    st.dictionaries(
        st.builds(AskedPrompt, TEXTS, st.integers(0, 3)), ANSWERS, min_size=1, max_size=4
    ),
    max_size=4,
)


def silent(said: str) -> None:
    pytest.fail(f"said: {said}")


def opened(path: Path, key: str = "k") -> AnswerLog:
    return AnswerLog(path, key, say=silent)


def a_number_of(count: int) -> dict[AskedPrompt, Answer]:
    return {
        AskedPrompt(f"prompt {i}", 0): Answer((i, 2), f"answer {i}", True) for i in range(count)
    }


def kept(log: AnswerLog, asked: dict[AskedPrompt, Answer]) -> dict[AskedPrompt, Answer]:
    return {one: answer for one in asked if (answer := log.get(one)) is not None}


@settings(max_examples=30)
@given(BATCHES)
def test_what_was_added_is_there(
    tmp_path_factory: pytest.TempPathFactory, batches: list[dict[AskedPrompt, Answer]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "answers.jsonl"
    expected: dict[AskedPrompt, Answer] = {}
    for batch in batches:
        opened(path).add(batch)  # each in a process of its own, as it were
        expected |= batch
    assert kept(opened(path), expected) == expected
    assert len(opened(path)) == len(expected)


def test_a_kill_at_any_byte_loses_whole_answers_only(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = a_number_of(3)
    opened(path).add(answers)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    more = {AskedPrompt("one more", 0): Answer((9,), "ünïcode …", False)}
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        left = kept(opened(path), answers)
        # The last line counts without its line feed, too: all of it is there.
        assert len(left) == sum(end - 1 <= length for end in ends)
        assert left.items() <= answers.items()
        opened(path).add(more)
        assert kept(opened(path), answers | more) == left | more


def test_bytes_that_are_no_text_are_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    answers = a_number_of(2)
    opened(path).add(answers)
    first, second, _ = path.read_bytes().split(b"\n")
    broken = second[:30] + b"\xff\x00" + second[32:]
    path.write_bytes(b"\n".join([b"\0" * 40, first, broken, b"[1]", b"{}", b"3", b""]))
    assert len(opened(path)) == 1


def test_another_key_starts_anew_says_so_and_destroys_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first, second = a_number_of(3), {AskedPrompt("prompt 0", 0): Answer((7,), "other", True)}
    opened(path, "one").add(first)
    said: list[str] = []
    other = AnswerLog(path, "two", say=said.append)
    assert len(other) == 0 and len(said) == 1
    assert "3 answers of another model or of other settings" in said[0]
    other.add(second)
    assert kept(AnswerLog(path, "one", say=said.append), first) == first
    assert kept(AnswerLog(path, "two", say=said.append), second) == second


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error_and_keeps_what_is_there(
    number: int, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    log = opened(path)
    log.add(a_number_of(2))
    with (
        mock.patch("os.fsync", side_effect=OSError(number, os.strerror(number))),
        pytest.raises(MachineError, match=r"no room to write .*answers.jsonl.*2 answers are kept"),
    ):
        log.add({AskedPrompt("more", 0): Answer((), "", False)})
    assert len(log) == 2 and log.get(AskedPrompt("more", 0)) is None
    with (
        mock.patch("os.fsync", side_effect=PermissionError(errno.EACCES, "denied")),
        pytest.raises(PermissionError),
    ):
        log.add(a_number_of(1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_device_that_is_full_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.symlink_to("/dev/full")
    with mock.patch("unlearning.generation.answer_log._read", return_value=({}, 0)):
        log = opened(path)
    with pytest.raises(MachineError, match="no room to write"):
        log.add(a_number_of(1))


# What is asked


@given(st.lists(st.sampled_from("abc")))
def test_every_occurrence_is_a_sample_of_its_own(prompts: list[str]) -> None:
    asked = each_asked(prompts, sampled=True)
    assert len(set(asked)) == len(prompts)
    assert [one.prompt for one in asked] == prompts
    assert {one.sample for one in each_asked(prompts, sampled=False)} <= {0}


def made(missing: list[AskedPrompt]) -> Iterator[dict[AskedPrompt, Answer]]:
    """Two at a time; an answer tells what was asked."""
    assert len(set(missing)) == len(missing)
    for start in range(0, len(missing), 2):
        batch = missing[start : start + 2]
        yield {one: Answer((one.sample,), one.prompt, True) for one in batch}


@settings(max_examples=30)
@given(st.lists(st.sampled_from("abcdefg")), st.booleans(), st.integers(0, 7))
def test_answers_are_in_order_whatever_was_there_before(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[str], sampled: bool, before: int
) -> None:
    asked = each_asked(prompts, sampled=sampled)
    path = tmp_path_factory.mktemp("log") / "answers.jsonl"
    answer_all(asked[:before], made, log=opened(path))
    counts: list[int] = []
    new: list[AskedPrompt] = []

    def making(missing: list[AskedPrompt]) -> Iterator[dict[AskedPrompt, Answer]]:
        new.extend(missing)
        return made(missing)

    found = answer_all(asked, making, log=opened(path), progress=counts.append)
    assert [(one.text, *one.ids) for one in found] == [(one.prompt, one.sample) for one in asked]
    assert set(new) == set(asked) - set(asked[:before])
    assert sum(counts) == len(prompts)
    assert found == answer_all(asked, made)


def test_a_batch_is_on_the_disk_before_the_next_is_made(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    asked = each_asked([f"prompt {i}" for i in range(6)], sampled=False)

    def interrupted(missing: list[AskedPrompt]) -> Iterator[dict[AskedPrompt, Answer]]:
        for number, batch in enumerate(made(missing)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        answer_all(asked, interrupted, log=opened(path))
    assert len(opened(path)) == 4


def test_lines_can_be_scored_as_recorded_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    opened(path).add(a_number_of(1))
    fields = json.loads(path.read_text(encoding="utf-8"))
    assert fields["prompt"] == "prompt 0" and fields["response"] == "answer 0"
