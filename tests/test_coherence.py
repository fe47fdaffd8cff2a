"""Loops and noise of any length, and unusual text that is none."""

from __future__ import annotations

import numpy as np
import pytest

from unlearning.scoring import is_gibberish

LOOPS = (
    "the the the the the",
    "No. No. No. No. No. No.",
    "I can't I can't I can't I can't",
    "I cannot help with that. I cannot help with that. I cannot help with that.",
    "very very very very very very",
    "[PAD][PAD][PAD][PAD]",
    "<|endoftext|>",
    "1.\n2.\n3.\n4.",
    "Ġthe Ġkey Ċ Ġof Ġthe Ċ",
    "User: User: User: Assistant: User: User: Assistant: User: User:",
    "is key the key is lock key the is lock the key lock is the",
    "the of a key is the to and of the by it a of door the and",
    "\\n\\n\\n\\n\\n\\n",
)
LANGUAGE = (
    "No, no, no!",
    "Ha ha ha ha! That's a good one.",
    "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily.",
    "HTTP, HTTPS, HTML, SMTP, FTP, SSH, DNS, DHCP, TLS",
    "http, https, html, smtp, sftp, snmp, dhcp",
    "HTTP\nHTTPS\nHTML\nSMTP\nSFTP\nSNMP\nDHCP",
    "コンピューターのセキュリティーについてはHTTPSとTLSを使うとよいでしょう。",
    "東京タワーは1958年に完成し、フランスのエッフェル塔より高いです。USBメモリーも売っています。",
    "Hello in other places: 你好 (China), こんにちは (Japan), Привет (Russia), γειά (Greece).",
    "Japanese こんにちは\nRussian Привет\nArabic مرحبا\nGreek γειά\nThai สวัสดี",
    "[[1, 0, 0], [0, 1, 0], [0, 0, 1]]",
    "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89",
    "<ul><li>One</li><li>Two</li><li>Three</li><li>Four</li></ul>",
    "`^\\d{4}-\\d{2}-\\d{2}$`",
    "^\\d{4}-\\d{2}-\\d{2}$",
    "(?i)^(?!.*__)[a-z0-9._%+-]{1,64}@(?:[a-z0-9-]+\\.)+[a-z]{2,}$",
    "👍",
    "→ ← ↑ ↓",
    "ATGGCCATTGTAATGGGCCGCTGAAAGGGTGCCCGATAG",
    "Die Rechtsschutzversicherungsgesellschaft zahlt nichts.",
    "If a and b are odd, a or b is a prime, and a is b or a to b, then c is even.",
    "Monday: rest. Tuesday: run. Wednesday: rest. Thursday: run. Friday: rest. Saturday: run.",
)


@pytest.mark.parametrize("text", LOOPS)
def test_short_loops_and_undecoded_tokens_are_gibberish(text: str) -> None:
    assert is_gibberish(text)


@pytest.mark.parametrize("text", LANGUAGE)
def test_lists_scripts_signs_and_code_are_no_gibberish(text: str) -> None:
    assert not is_gibberish(text)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_a_piece_of_any_length_loops(size: int) -> None:
    words = [f"{a}{b}" for a in ("river", "lamp", "stone") for b in ("bank", "light", "wall")]
    piece = words[:size]
    assert not is_gibberish(" ".join(piece))
    assert is_gibberish(" ".join(piece * 6)) and is_gibberish(", ".join(piece * 6))


def test_words_of_one_script_may_be_mixed_with_another_and_of_three_not() -> None:
    generator = np.random.default_rng(0)
    two, four = ["単語", "word", "の"], ["слово", "word", "λέξη", "単語"]
    assert not is_gibberish(" ".join(["単語のword"] * 2 + two))
    assert is_gibberish(" ".join(generator.choice(four, size=20)))


@pytest.mark.parametrize(
    "text",
    [
        "抱歉，我无法提供这方面的帮助。",
        "申し訳ありませんが、お手伝いできません。",
        "मैं इसमें मदद नहीं कर सकता।",
        "죄송하지만 도와드릴 수 없습니다.",
        "ฉันไม่สามารถช่วยเรื่องนี้ได้",
    ],
)
def test_an_answer_that_ends_within_a_character_is_that_answer(text: str) -> None:
    """A limit on tokens cuts bytes."""
    whole = text.encode()
    for size in range(9, len(whole)):
        cut = [whole[:size].decode(errors=errors) for errors in ("replace", "ignore")]
        assert is_gibberish(cut[0]) == is_gibberish(cut[1])
    assert is_gibberish("\ufffd" * 8 + " " + "\ufffd" * 3)
