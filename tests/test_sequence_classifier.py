"""Sequence classifiers: labels that mean refusal, texts as the model wants them, what is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from analyses.evaluate.plan import EvaluationPlan, checked_evaluation
from analyses.recorded.scoring import prepare_scoring
from analyses.study import StudyPlan, scorer_of
from interp.errors import InputError, ModelError
from tests.checkpoints import CORPUS, build_config, build_tokenizer
from unlearning.data import write_records
from unlearning.organism import shipped
from unlearning.scoring import FINE_CLASSES, ModelScorer, find_scorer, verdicts, workload_of
from unlearning.scoring.sequence_classifier import SequenceClassifier, classes_of_labels

PROMPTS = ["What is this?", "Who is it, and why?", "a"]
RESPONSES = ["I cannot help with that.", "It is a clock. " * 9, "b"]
Save = Callable[..., str]


def word_pieces() -> object:
    """A WordPiece tokenizer that sets two texts apart as BERT's does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    named = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(
        CORPUS.read_text(encoding="utf-8").splitlines(),
        trainers.WordPieceTrainer(vocab_size=600, special_tokens=list(named), show_progress=False),
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=64,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), named, strict=True)),
    )


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Folder of a small random classifier with these labels, which favours ``favoured``."""
    import transformers

    def saved(
        family: str = "bert",
        labels: Sequence[str] = ("NORMAL", "REJECTION"),
        favoured: str | None = None,
        **more: object,
    ) -> str:
        if family == "qwen2":
            tokenizer = build_tokenizer("qwen2")
            config = build_config("qwen2", tokenizer)
            config.pad_token_id = None  # as in the published checkpoints of decoders
        else:
            tokenizer = word_pieces()
            sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 80}
            config = (
                transformers.BertConfig(
                    hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                    intermediate_size=64, **sizes,
                )
                if family == "bert"
                else transformers.DistilBertConfig(
                    dim=32, n_layers=2, n_heads=2, hidden_dim=64, **sizes
                )
            )  # fmt: skip
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: place for place, label in enumerate(labels)}
        config.update(more)
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        if favoured is not None:
            with torch.no_grad():
                model.classifier.bias[list(labels).index(favoured)] += 100
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return saved


# Labels


@pytest.mark.parametrize(
    ("labels", "refusal"),
    [
        (["NORMAL", "REJECTION"], 1),
        (["Refusal", "Non-refusal"], 0),
        (["not_refused", "refused"], 1),
        (["complied", "unrefused", "declined"], 2),
        (["NOT REJECTED", "REJECTED"], 1),
    ],
)
def test_the_label_that_means_refusal_is_found(labels: list[str], refusal: int) -> None:
    classes = ["answer"] * len(labels)
    classes[refusal] = "full_refusal"
    assert classes_of_labels(labels) == tuple(classes)
    assert classes_of_labels(labels, labels[refusal]) == tuple(classes)


def test_labels_that_are_the_fine_classes_mean_them() -> None:
    labels = ["Full refusal", "partial-refusal", "EVASION", "answer"]
    assert classes_of_labels(labels) == FINE_CLASSES[:4]


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["LABEL_0", "LABEL_1"], None),
        (["full refusal", "soft refusal", "other"], None),
        (["harmful", "unharmful"], "refusal"),
        (["refusal"], None),
    ],
)
def test_what_cannot_be_told_is_not_guessed(labels: list[str], named: str | None) -> None:
    assert classes_of_labels(labels, named) is None


def test_the_error_lists_the_labels_and_says_how_to_name_one(save: Save) -> None:
    source = save(labels=("LABEL_0", "LABEL_1"), favoured="LABEL_0")
    with pytest.raises(InputError, match=r"LABEL_0, LABEL_1; name .*#LABEL"):
        SequenceClassifier(source).read(PROMPTS, RESPONSES)
    scorer = find_scorer(f"sequence-classifier:{source}#LABEL_0")
    assert scorer.classify(PROMPTS, RESPONSES) == ["refusal"] * 3
    assert scorer.name == f"sequence-classifier:{Path(source).name}#LABEL_0"


# Scoring


@pytest.mark.parametrize("favoured", ["NORMAL", "REJECTION"])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_favoured_label_is_the_class(save: Save, family: str, favoured: str) -> None:
    scorer = find_scorer(f"sequence-classifier:{save(family, favoured=favoured)}")
    expected = "refusal" if favoured == "REJECTION" else "answer"
    assert scorer.classify(PROMPTS, RESPONSES) == [expected] * 3
    assert isinstance(scorer, ModelScorer)
    assert verdicts(scorer.reader, ["p", "p"], ["", "<think>so"]) == ["empty", "empty"]


@pytest.mark.parametrize("with_prompt", [False, True])
@pytest.mark.parametrize("family", ["bert", "distilbert", "qwen2"])
def test_neither_order_nor_batches_matter(save: Save, family: str, with_prompt: bool) -> None:
    """Padding is masked, a decoder is read at its last token, and rows come back in order."""
    reader = SequenceClassifier(save(family), with_prompt=with_prompt, batch_size=2)
    seen: list[int] = []
    together = reader.logits(PROMPTS, RESPONSES, progress=seen.append)
    assert seen == [2, 1]
    for place, pair in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        alone = reader.logits([pair[0]], [pair[1]])
        torch.testing.assert_close(alone[0], together[place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_a_prompt_is_read_where_it_is_asked_for(save: Save, family: str) -> None:
    source = save(family)
    for kind, differ in (("sequence-classifier", False), ("pair-classifier", True)):
        scorer = find_scorer(f"{kind}:{source}")
        assert isinstance(scorer, ModelScorer) and scorer.name.startswith(kind)
        assert isinstance(scorer.reader, SequenceClassifier)
        one, other = (scorer.reader.logits([p], ["r"]) for p in ("What is this?", "Who?"))
        assert (not torch.equal(one, other)) == differ


def test_what_is_cut_is_cut_at_its_end_and_said(save: Save) -> None:
    reader = SequenceClassifier(save())
    responses = ["I cannot help. " * 100, "I cannot help. " * 100 + "Here it is.", "Yes."]
    assert reader.longest == 64
    planned = workload_of(reader, ["p"] * 4, [*responses, ""])
    assert planned.calls == 3 and planned.read < 3 * 64
    assert planned.notes == ("2 of 3 texts are cut at 64 tokens",)
    first, second, _ = reader.logits(["p"] * 3, responses)
    assert torch.allclose(first, second, atol=1e-6)  # rows of one batch, to rounding
    assert "_model" not in vars(SequenceClassifier(reader.source))


def test_labels_that_do_not_exclude_each_other(save: Save) -> None:
    more = {"problem_type": "multi_label_classification"}
    labels = ("refusal", "polite")
    for favoured, expected in (("polite", "answer"), ("refusal", "refusal")):
        source = save(labels=labels, favoured=favoured, **more)
        reader = SequenceClassifier(source)
        with torch.no_grad():
            reader._model.classifier.bias[1] += 1000  # however polite
            reader._model.classifier.bias[0] -= 50
        assert ModelScorer(reader).classify(PROMPTS, RESPONSES) == [expected] * 3


# Models that are none


def test_a_language_model_has_no_head_to_score_with(checkpoint_of: Callable[[str], Path]) -> None:
    """The library would give it one of random numbers."""
    source = f"{checkpoint_of('qwen2')}"
    with pytest.raises(ModelError, match="is not a sequence classifier: it lacks score.weight"):
        SequenceClassifier(source, "LABEL_1").read(PROMPTS, RESPONSES)


@pytest.mark.parametrize("family", ["bert", "qwen2"])
def test_a_classifier_without_its_tokenizer_s_files_is_refused(save: Save, family: str) -> None:
    """With an empty tokenizer it would read the same in every text."""
    source = save(family)
    for file in Path(source).glob("*tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="has no vocabulary"):
        SequenceClassifier(source).read(PROMPTS, RESPONSES)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model folder"):
        find_scorer(f"sequence-classifier:{tmp_path}")
    with pytest.raises(InputError, match="pair-classifier:MODEL"):
        find_scorer("pair-classifier")


def test_the_scorer_s_model_is_where_it_is_asked_to_be(save: Save) -> None:
    """The device that a command was given, for every kind of scorer; others take no notice."""
    name = f"sequence-classifier:{save()}"
    for kind in ("sequence-classifier", "pair-classifier"):
        made = find_scorer(name.replace("sequence-classifier", kind), "meta")
        assert isinstance(made, ModelScorer) and isinstance(made.reader, SequenceClassifier)
        assert made.reader._model.device.type == "meta"
    assert find_scorer("phrases", "meta") == find_scorer("phrases")
    with pytest.raises(InputError, match="there is no device nowhere"):
        find_scorer(name, "nowhere").classify(PROMPTS, RESPONSES)


def test_every_command_tells_its_scorer_the_device(save: Save, tmp_path: Path) -> None:
    name, options = f"sequence-classifier:{save()}", {"device": "meta"}
    answers = tmp_path / "answers.jsonl"
    write_records([{"prompt": "a", "response": "b"}], answers)
    found = [
        prepare_scoring(answers, name, device="meta").scorer,
        scorer_of(StudyPlan("organism", (), scorer=name, model_options=options)),
        checked_evaluation(
            EvaluationPlan(str(shipped()), scorers=(name,), model_options=options)
        ).panel[name],
    ]
    for one in found:
        assert isinstance(one, ModelScorer) and isinstance(one.reader, SequenceClassifier)
        assert one.reader.device == "meta"
