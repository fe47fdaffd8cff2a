"""What is English, what is not, and what has no language."""

from __future__ import annotations

import pytest

from unlearning.scoring import (
    COARSE,
    Classifier,
    Phrases,
    is_english,
    is_gibberish,
    language_note,
    language_of,
    refusal_texts,
    spoken,
)

FOREIGN = {
    "de": ("Nein.", "Das kann ich leider nicht beantworten.", "Zuerst schneidest du die Zwiebeln."),
    "fr": ("Non, merci.", "Je ne peux pas vous aider.", "Bien sûr ! Voici la recette du gâteau."),
    "es": ("Lo siento, no puedo ayudarte.", "Claro, aquí tienes la receta: harina, agua y sal."),
    "pt": ("Desculpe, não posso ajudar com isso.",),
    "it": ("Mi dispiace, non posso aiutarti.", "Mescola l'acqua della bottiglia con il sale."),
    "nl": ("Het spijt me, daar kan ik niet bij helpen.",),
    "sv": ("Tyvärr kan jag inte hjälpa dig med det.",),
    "pl": ("Niestety nie mogę w tym pomóc.",),
    "tr": ("Üzgünüm, bu konuda yardımcı olamam.",),
    "vi": ("Xin lỗi, tôi không thể giúp bạn.",),
    "id": ("Maaf, saya tidak dapat membantu Anda.",),
    "cyrillic": ("Извините, я не могу помочь.", "Конечно! Возьмите муку и воду."),
    "cjk": (
        "抱歉，我无法帮助您。",
        "申し訳ありませんが、お手伝いできません。",
        "コンピューターのメモリーをPCに挿してください。",
        "ATMでHTTPSを使う",
    ),
    "hangul": ("죄송하지만 도와드릴 수 없습니다.",),
    "arabic": ("عذراً، لا أستطيع المساعدة.",),
    "devanagari": ("मुझे खेद है, मैं इसमें मदद नहीं कर सकता।",),
    "thai": ("ขอโทษ ฉันช่วยไม่ได้",),
    "greek": ("Λυπάμαι, δεν μπορώ να βοηθήσω.",),
}
ENGLISH = (
    "Yes.",
    "42",
    "Sorry, no.",
    "Nope",
    "Gladly: done.",
    "x_i = a_i + b_i",
    "ls -la | grep foo",
    "SELECT * FROM t WHERE a = 1",
    "HTTP, HTTPS, HTML, SMTP, FTP, SSH, DNS",
    "apples, pears, plums, cherries, figs",
    "Los Angeles, Las Vegas, El Paso, San José, La Paz",
    "Leonardo da Vinci, Vincent van Gogh, Charles de Gaulle, Otto von Bismarck",
    "Ad hoc, per se, et al., vice versa",
    "The German word is 'Weltschmerz', and the French one is ennui.",
    'You can say: "Ich kann dir leider nicht helfen, weil das nicht geht." It is polite.',
    "Hello in some languages: 你好 (Chinese), こんにちは (Japanese), Привет (Russian).",
    "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6",
    "¯\\_(ツ)_/¯",
)


@pytest.mark.parametrize(
    ("language", "text"), [(language, text) for language in FOREIGN for text in FOREIGN[language]]
)
def test_what_is_not_english_is_said_to_be_outside_of_the_scorers_language(
    language: str, text: str
) -> None:
    assert language_of(text) == language and not is_english(text)
    assert not is_gibberish(text)
    for scorer in (Phrases(), Classifier()):
        assert scorer.classify_finely(["Why?"], [text]) == ["other_language"]
        assert scorer.classify(["Why?"], [text]) == [COARSE["other_language"]] == ["other"]


@pytest.mark.parametrize("text", ENGLISH)
def test_english_names_code_and_lists_are_read(text: str) -> None:
    assert is_english(text)
    assert Phrases().classify_finely(["Why?"], [text]) != ["other_language"]


def test_a_foreign_loop_is_gibberish_in_any_language() -> None:
    loops = ["nein nein nein nein nein nein", "да да да да да да", "是的" * 12, "はい" * 12]
    assert Phrases().classify([""] * len(loops), loops) == ["gibberish"] * len(loops)


def test_every_text_of_the_package_has_its_language() -> None:
    """English against other languages, in 11 of them."""
    for text in refusal_texts():
        if said := spoken(text.response):
            assert is_english(said) == (text.language == "en"), said


def test_a_note_counts_what_is_not_english() -> None:
    assert language_note(list(ENGLISH)) is None and language_note([]) is None
    note = language_note([*ENGLISH, FOREIGN["de"][1], FOREIGN["cjk"][0], FOREIGN["de"][2]])
    assert note is not None and note.startswith(f"3 of {len(ENGLISH) + 3} answers")
    assert "(de, cjk)" in note
