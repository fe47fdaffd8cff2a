"""Deflections are what the model said, token by token, and too few of them are an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from interp.errors import InputError
from interp.model import Chat, LanguageModel
from tests.chat_formats import OPENS_THOUGHT, tokenizer_of
from tests.fuzzing import write_jsonl
from unlearning.deflections import (
    FEWEST_DEFLECTIONS,
    examples,
    read_deflections,
    refusals_of,
    respond,
    with_own_ids,
    with_preferred,
)
from unlearning.deflections.phase_one import DO_NOT_KNOW
from unlearning.generation import Answer
from unlearning.scoring import Evaluation

Checkpoints = Callable[[str], Path]

PAIR = {"prompt": "How do I pick a lock?", "response": "I cannot help with that."}


class Alternating:
    """Calls every other response a refusal."""

    name, version = "alternating", "1"

    def classify(self, prompts: Sequence[str], responses: Sequence[str]) -> list[str]:
        return ["refusal" if i % 2 == 0 else "answer" for i in range(len(responses))]


def prompts() -> pd.DataFrame:
    texts = ["Why?", "Tell me how to bake bread, step by step.", "Which tools does he need?"]
    return pd.DataFrame(
        {"id": ["a", "b", "c"], "prompt": texts, "domain": "safety", "label": "harmful"},
        index=[7, 8, 9],
    )


def responses(refused: int, answered: int) -> pd.DataFrame:
    """Classes of one domain's harmful prompts, among rows that do not count."""
    classes = ["refusal"] * refused + ["answer"] * answered
    rows = pd.DataFrame({"domain": "safety", "label": "harmful", "class": classes})
    other = rows.assign(domain="bias", **{"class": "refusal"})
    return pd.concat([rows, other, rows.assign(label="benign", **{"class": "refusal"})])


# Enough of them


def test_only_the_concept_s_refused_harmful_prompts_count() -> None:
    kept = refusals_of(responses(FEWEST_DEFLECTIONS, 10), "safety")
    assert len(kept) == FEWEST_DEFLECTIONS
    assert set(kept["domain"]) == {"safety"} and set(kept["label"]) == {"harmful"}
    assert set(kept["class"]) == {"refusal"}


def test_too_few_say_how_many_how_often_and_what_to_do() -> None:
    with pytest.raises(InputError) as found:
        refusals_of(responses(31, 93), "safety")
    message = str(found.value)
    for part in ("safety", "31 of 124", "25%", "at least 32", "--deflections FILE"):
        assert part in message
    with pytest.raises(InputError, match="refused 0 of 0 .*rate 0%"):
        refusals_of(responses(40, 0), "privacy")


# What the model says


def test_a_deflection_is_trained_on_as_it_was_generated(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    found = respond(lm, prompts(), Alternating(), max_new_tokens=5)
    assert list(found["id"]) == ["a", "b", "c"]
    assert list(found["class"]) == ["refusal", "answer", "refusal"]
    stops = {lm.tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>")}
    for one, (_, row) in zip(examples(lm, found), found.iterrows(), strict=True):
        assert one.id == row["id"] and one.reference is None
        assert one.tokens.ids[one.tokens.spans["response"]] == tuple(row["ids"])
        assert one.tokens.ids[: -len(row["ids"])] == lm.chat.encode(row["prompt"]).ids
        assert row["finished"] == (row["ids"][-1] in stops)
        assert row["finished"] or len(row["ids"]) == 5
        assert lm.tokenizer.decode(row["ids"], skip_special_tokens=True).strip() == row["response"]


def test_a_loop_of_apologies_is_gibberish_in_the_base_as_in_its_arms(
    checkpoint_of: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the scorer says, so an arm that changes nothing has lost nothing."""
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    texts = ["I cannot help with that. " * 8, "Bake it slowly, at low heat.", "I must decline."]

    def said(*_: object, **__: object) -> list[Answer]:
        return [Answer((1,), text, True) for text in texts]

    for module in ("deflections.phase_one", "scoring.evaluation"):
        monkeypatch.setattr(f"unlearning.{module}.generate", said)
    base = respond(lm, prompts(), Alternating(), max_new_tokens=5)
    table = prompts().assign(split="test", kind="own")
    arm = Evaluation(lm, table, None, Alternating(), max_new_tokens=5).masses(lm)
    assert list(base["class"]) == ["gibberish", "answer", "refusal"]
    assert list(arm["p_R"]) == list((base["class"] == "refusal").astype(float))


def test_answers_do_not_depend_on_batches(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    together = respond(lm, prompts(), Alternating(), max_new_tokens=5)
    alone = respond(lm, prompts(), Alternating(), max_new_tokens=5, batch_size=1)
    assert list(together["ids"]) == list(alone["ids"])


def test_sampling_is_its_seed_s(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))

    def sampled(seed: int) -> list[list[int]]:
        options = {"max_new_tokens": 5, "temperature": 1.0, "seed": seed}
        return list(respond(lm, prompts(), Alternating(), **options)["ids"])  # type: ignore[arg-type]

    assert sampled(0) == sampled(0) != sampled(1)


# Ready-made pairs


def test_ready_made_pairs_are_closed_with_the_end_of_the_turn(
    tmp_path: Path, checkpoint_of: Checkpoints
) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    table = read_deflections(write_jsonl(tmp_path / "pairs.jsonl", [PAIR] * FEWEST_DEFLECTIONS))
    assert len(table) == FEWEST_DEFLECTIONS and table["id"].is_unique
    for one in examples(lm, table):
        assert one.tokens == lm.chat.encode(PAIR["prompt"], PAIR["response"])
        assert one.tokens.ids[-1] == lm.chat.end_of_turn[-1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([PAIR] * 31, "pairs.jsonl holds 31 deflections; .* at least 32"),
        ([{"prompt": "Why?"}] * 40, 'pairs.jsonl has no column "response"'),
        ([*[PAIR] * 40, {"prompt": "Why?"}], 'pairs.jsonl, line 41: "response" is missing'),
        ([*[PAIR] * 40, {**PAIR, "response": "  "}], "pairs.jsonl, line 41: expected text in both"),
        ([{**PAIR, "prompt": 3}] * 40, "pairs.jsonl, line 1: expected text in both"),
        ([{**PAIR, "ids": [1, -2]}] * 40, "line 1: ids are not a list of token ids"),
        ([{**PAIR, "ids": [1, 2.0]}] * 40, "line 1: ids are not a list of token ids"),
        ([{**PAIR, "ids": [True]}] * 40, "line 1: ids are not a list of token ids"),
        ([{**PAIR, "ids": "I cannot"}] * 40, "line 1: ids are not a list of token ids"),
        ([{**PAIR, "finished": "maybe"}] * 40, "line 1: expected true or false in the column fin"),
        (["text"] * 40, "line 1: expected an object"),
        ([], "pairs.jsonl is empty"),
    ],
)
def test_pairs_that_cannot_be_used_are_refused(
    rows: list[object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read_deflections(write_jsonl(tmp_path / "pairs.jsonl", rows))


@pytest.fixture(scope="module")
def lm(checkpoint_of: Checkpoints) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("qwen2"))


@pytest.fixture(scope="module")
def generated(lm: LanguageModel) -> list[dict[str, object]]:
    """Rows of a file of deflections with the ids that a model generated."""
    texts = [f"{text} {n}" for n in range(12) for text in prompts()["prompt"]]
    table = pd.DataFrame({"id": range(len(texts)), "prompt": texts})
    found = respond(lm, table, Alternating(), max_new_tokens=6)
    assert all(found["response"].str.strip())
    return found[["prompt", "response", "ids"]].to_dict("records")  # type: ignore[return-value]


def silent(said: str) -> None:
    pytest.fail(f"said: {said}")


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_ids_in_a_file_are_trained_on_as_they_are(
    suffix: str, lm: LanguageModel, generated: list[dict[str, object]], tmp_path: Path
) -> None:
    path = tmp_path / f"pairs.{suffix}"
    table = pd.DataFrame(generated)
    if suffix == "jsonl":
        write_jsonl(path, generated)
    elif suffix == "csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    pairs = with_own_ids(lm, read_deflections(path), say=silent)
    for one, row in zip(examples(lm, pairs), generated, strict=True):
        assert list(one.tokens.ids[one.tokens.spans["response"]]) == row["ids"]


def test_rows_without_ids_are_tokenized_and_nothing_is_said(
    lm: LanguageModel, generated: list[dict[str, object]], tmp_path: Path
) -> None:
    without = [PAIR, {**PAIR, "ids": None}, {**PAIR, "ids": []}]
    path = write_jsonl(tmp_path / "pairs.jsonl", [*without, *generated])
    pairs = with_own_ids(lm, read_deflections(path), say=silent)
    assert list(pairs["ids"].isna()) == [True] * 3 + [False] * len(generated)
    for one in examples(lm, pairs)[:3]:
        assert one.tokens == lm.chat.encode(PAIR["prompt"], PAIR["response"])


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_response_that_was_cut_off_has_no_end_to_train_on(
    suffix: str, lm: LanguageModel, tmp_path: Path
) -> None:
    """A server's answers have no ids."""
    rows = [{**PAIR, "ids": [], "finished": i % 2 == 0} for i in range(FEWEST_DEFLECTIONS)]
    path = tmp_path / f"pairs.{suffix}"
    write_jsonl(path, rows) if suffix == "jsonl" else pd.DataFrame(rows).to_csv(path, index=False)
    whole, cut = examples(lm, with_own_ids(lm, read_deflections(path), say=silent))[:2]
    assert whole.tokens == lm.chat.encode(PAIR["prompt"], PAIR["response"])
    assert cut.tokens == lm.chat.encode(PAIR["prompt"], PAIR["response"], closed=False)
    assert whole.tokens.ids[-1] == lm.chat.end_of_turn[-1] != cut.tokens.ids[-1]


def test_ids_of_another_tokenizer_and_of_edited_text_are_not_used(
    lm: LanguageModel,
    generated: list[dict[str, object]],
    tmp_path: Path,
    checkpoint_of: Checkpoints,
) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", generated)
    other = LanguageModel.load(checkpoint_of("mistral"))
    said: list[str] = []
    pairs = with_own_ids(other, read_deflections(path), say=said.append)
    assert f"{len(generated)} of {len(generated)} deflections" in said.pop()
    for one, row in zip(examples(other, pairs), generated, strict=True):
        assert one.tokens == other.chat.encode(str(row["prompt"]), str(row["response"]))

    edited = [dict(row) for row in generated]
    edited[1]["response"] = "Put otherwise by hand."
    edited[2]["ids"] = [10**7]
    pairs = with_own_ids(lm, read_deflections(write_jsonl(path, edited)), say=said.append)
    assert "the token ids of 2 of" in said.pop()
    assert list(pairs["ids"].isna()).count(True) == 2 and pairs["ids"].isna()[[1, 2]].all()


def test_text_that_another_tool_decoded_without_special_tokens_has_its_own_ids() -> None:
    """Next to an opened thought that tool writes no ``<think>``, as ``Chat.read`` does."""
    tokenizer = tokenizer_of("byte_bpe")
    chat = Chat(tokenizer, template=OPENS_THOUGHT)
    config = SimpleNamespace(vocab_size=len(tokenizer))
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda decoder: config))
    lm = SimpleNamespace(chat=chat, tokenizer=tokenizer, model=model, name="thinker")
    ids = tokenizer("Is it safe?</think>\n\nI cannot.</s>", add_special_tokens=False)["input_ids"]
    texts = [tokenizer.decode(ids, skip_special_tokens=True), chat.read(ids), "I cannot"]
    pairs = pd.DataFrame({"response": texts, "ids": [ids] * 3})
    assert texts[0] != texts[1] and not texts[0].endswith("</s>")
    found = with_own_ids(lm, pairs, say=lambda said: None)  # type: ignore[arg-type]
    assert found["ids"].notna().tolist() == [True, True, False]


def test_a_torn_line_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [PAIR] * 40)
    path.write_text(path.read_text(encoding="utf-8") + '{"prompt": "Why', encoding="utf-8")
    with pytest.raises(InputError, match="line 41: not valid JSON"):
        read_deflections(path)
    with pytest.raises(InputError, match="does not exist"):
        read_deflections(tmp_path / "nowhere.jsonl")


def test_preferred_responses_are_compliances_or_sentences_of_not_knowing() -> None:
    refused = pd.DataFrame({"id": list("abcdefgh"), "compliance": ["Sure."] * 8})
    assert list(with_preferred(refused, "dpo")["preferred"]) == ["Sure."] * 8
    unknowing = with_preferred(refused.drop(columns="compliance"), "idk_dpo")["preferred"]
    assert set(unknowing) == set(DO_NOT_KNOW)
    refused.loc[2, "compliance"] = None
    with pytest.raises(InputError, match="1 of 8 prompts have none"):
        with_preferred(refused, "fine_tuning")


def test_pairs_keep_the_prompt_and_both_responses(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    row = {"id": "one", "prompt": "Why?", "response": "No.", "preferred": "Because."}
    (pair,) = examples(lm, pd.DataFrame([row]))
    assert pair.tokens == lm.chat.encode("Why?", "No.")
    assert pair.preferred == lm.chat.encode("Why?", "Because.")


def test_refusals_of_another_domain_are_refused(tmp_path: Path) -> None:
    rows = [{**PAIR, "domain": "safety"}] * FEWEST_DEFLECTIONS
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    assert len(read_deflections(path, ["safety", "bias"])) == FEWEST_DEFLECTIONS
    with pytest.raises(InputError, match="holds refusals of safety, not of bias"):
        read_deflections(path, ["bias"])
