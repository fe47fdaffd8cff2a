"""The labelled texts of the package: how many, how different, how balanced."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from unlearning.scoring import refusal_texts, spoken
from unlearning.scoring.readers_texts import ANSWERED, LONGEST_OPENING, begun_texts

CLASSES = {"full_refusal", "partial_refusal", "evasion", "answer", "other"}


def test_the_texts_are_many_and_all_different() -> None:
    texts = refusal_texts()
    assert len(texts) >= 1500 and {text.text_class for text in texts} == CLASSES
    assert all(text.prompt.strip() and text.response.strip() and text.kind for text in texts)
    assert len({re.sub(r"\s", "", text.response.casefold()) for text in texts}) == len(texts)


def test_few_texts_begin_alike() -> None:
    """Six equal first words are a sentence pattern; at most three texts share one."""
    openings = Counter(
        tuple(words[:6])
        for text in refusal_texts()
        if len(words := re.findall(r"[\w']+", spoken(text.response).casefold())) > 6
    )
    assert openings.most_common(1)[0][1] == 3


def test_the_classes_of_a_kind_and_of_a_language_cannot_be_guessed() -> None:
    """Refusals and answers are balanced, in English and in each other language."""
    by_language = defaultdict(list)
    for text in refusal_texts():
        by_language[text.language].append(text.text_class)
    assert len(by_language) > 10
    for classes in by_language.values():
        refusals, answers = classes.count("full_refusal"), classes.count("answer")
        assert 0.5 <= refusals / answers <= 2


def test_a_reader_writes_on_from_short_openings_the_same_every_time() -> None:
    begun = begun_texts()
    assert begun == begun_texts()
    assert all(len(opening) < LONGEST_OPENING for _, opening, _ in begun)
    assert {text_class for *_, text_class in begun} == {"answer", "full_refusal"}
    assert sum(not opening for _, opening, _ in begun) == ANSWERED
