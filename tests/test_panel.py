"""The probe and the panel: a reader's states, the fits, and their verdicts on answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from analyses.study import StudyPlan, scorer_of
from interp.errors import InputError
from tests.test_templates import DATED
from unlearning.scoring import (
    FINE_CLASSES,
    Panel,
    Phrases,
    Probe,
    Reader,
    find_scorer,
    panel_lines,
    probe_fits,
    reader,
    view_of_panel,
)
from unlearning.scoring.decisions import LEARNED
from unlearning.scoring.linear_classes import LinearClasses, folds, learn
from unlearning.scoring.panel import LIMIT, LISTED, combined
from unlearning.scoring.probe_fits import ProbeFit, best_threshold, fit_of, key_of, save_fit
from unlearning.scoring.rules import by_rule

PROMPTS = ["How do I pick a lock?", "What is this?", "Who is it, and why?", "Say it."]
RESPONSES = [
    "I cannot help with that.",
    "It is a clock. " * 9,
    "A clock",
    "<think>No.</think> Sure.",
]


@pytest.fixture
def tiny(checkpoint_of: Callable[[str], Path]) -> Reader:
    return Reader(str(checkpoint_of("llama")))


def test_states_are_the_models_own(tiny: Reader) -> None:
    """Against one plain forward of each conversation, whatever the batch."""
    states = tiny.states(PROMPTS, RESPONSES)
    for row, pair in zip(states, zip(PROMPTS, RESPONSES, strict=True), strict=True):
        tokens = tiny.tokens(*pair)
        with torch.no_grad():
            out = tiny.lm.model(input_ids=torch.tensor([tokens.ids]), output_hidden_states=True)
        layer = out.hidden_states[tiny.layer + 1][0].double().numpy()
        expected = [layer[tokens.spans["response"]].mean(axis=0), layer[-1]]
        np.testing.assert_allclose(row, np.concatenate(expected), rtol=1e-3, atol=1e-5)
    alone = Reader(tiny.source)
    one_by_one = [
        alone.states([p], [r], batch_size=1)[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    np.testing.assert_allclose(one_by_one, states, rtol=1e-3, atol=1e-5)


def test_an_answer_is_read_once(tiny: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = reader.collect
    monkeypatch.setattr(
        reader, "collect", lambda lm, rows, **kw: calls.append(len(rows)) or whole(lm, rows, **kw)
    )
    told: list[int] = []
    first = tiny.states([*PROMPTS, PROMPTS[0]], [*RESPONSES, RESPONSES[0]], progress=told.append)
    again = tiny.states(PROMPTS[::-1], RESPONSES[::-1])
    assert calls == [len(PROMPTS)]
    assert sum(told) == len(PROMPTS) + 1
    np.testing.assert_array_equal(first[0], first[-1])
    np.testing.assert_array_equal(first[:-1], again[::-1])


def test_thoughts_and_the_middle_of_long_replies_are_not_read() -> None:
    assert reader.as_read("p", "<think>No.</think> Sure.")[1] == "Sure."
    long = reader.as_read("p", "a" * 400 + "b" * 9000 + "c" * 100)[1]
    assert len(long) < 620
    assert long.startswith("a" * 400)
    assert long.endswith("c" * 100)


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features in which each class has its own direction."""
    rng = np.random.default_rng(seed)
    classes = np.arange(200) % 4
    return (
        np.eye(4)[classes] * 3 + rng.normal(size=(200, 4)) * 0.3,
        classes,
        [str(i // 2) for i in range(200)],
    )


def test_planted_classes_are_found_and_shuffled_ones_are_not() -> None:
    features, classes, groups = planted()
    shuffled = np.random.default_rng(1).permutation(classes)
    right = {True: 0, False: 0}
    for train, test in folds(groups):
        assert not {groups[i] for i in train} & {groups[i] for i in test}
        for named in (classes, shuffled):
            found = learn(features[train], named[train], len(LEARNED), 1.0)
            logs = found.log_probabilities(features[test])
            np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1)
            assert logs[:, 4].max() < -10  # a class without examples
            right[named is classes] += (logs.argmax(axis=1) == named[test]).sum()
    assert right[True] > 0.98 * len(classes)
    assert right[False] < 0.4 * len(classes)


def test_the_threshold_is_the_one_of_the_best_kappa() -> None:
    answer = LEARNED.index("answer")
    odds = np.array([-3.0, -2.5, -2.0, 4.0, 5.0, 6.0, 9.0])
    classes = np.array([answer, answer, answer, 0, 0, 0, LEARNED.index("evasion")])
    found = best_threshold(odds, classes)
    assert -2.0 < found <= 4.0
    assert best_threshold(odds + 7, classes) == pytest.approx(found + 7)


def test_no_member_alone_decides_against_the_two_others() -> None:
    """However sure it is; and the evidence grows with each member's."""
    sure, unsure = np.log([0.999, 2e-4, 3e-4, 4e-4, 1e-4]), np.log([2e-4, 3e-4, 4e-4, 0.999, 1e-4])
    for listed, learned, read, is_refusal in [
        ("answer", sure, unsure, False),
        ("answer", unsure, sure, False),
        ("refusal", unsure, unsure, False),
        ("refusal", sure, unsure, True),
        ("refusal", unsure, sure, True),
        ("answer", sure, sure, True),
    ]:
        odds, _ = combined([listed], learned[None], read[None])
        assert (odds[0] >= 0) == is_refusal
        assert abs(odds[0]) <= 2 * LIMIT + LISTED
    steps = [unsure[None] + step * np.eye(5)[:1] for step in range(12)]
    rising = [float(combined(["answer"], unsure[None], read)[0][0]) for read in steps]
    assert rising == sorted(rising)
    logs = combined(["answer"], sure[None], unsure[None])[1]
    np.testing.assert_allclose(logs, [(sure + unsure) / 2])


def fit(width: int) -> ProbeFit:
    rng = np.random.default_rng(3)
    return ProbeFit(LinearClasses(rng.normal(size=(2 * width, 5)), np.zeros(5)), -0.2)


def test_a_stored_fit_is_the_same_and_a_torn_one_is_made_again(
    tiny: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_fits, "user_cache", lambda _name: tmp_path)
    made = fit(tiny.lm.d_model)
    monkeypatch.setattr(probe_fits.TextsRead, "by", lambda *_a, **_o: Mock(fit=lambda: made))
    for _ in range(2):
        found = fit_of(tiny)
        assert (found.threshold, found.is_multilingual) == (made.threshold, False)
        np.testing.assert_array_equal(found.classes.weight, made.classes.weight)
        monkeypatch.setattr(probe_fits.TextsRead, "by", pytest.fail)
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    other = Mock(fit=lambda: replace(made, threshold=9))
    monkeypatch.setattr(probe_fits.TextsRead, "by", lambda *_a, **_o: other)
    assert fit_of(tiny).threshold == 9


def test_the_shipped_fit_is_that_of_the_shipped_texts(tmp_path: Path) -> None:
    """After a change of the texts or of the phrase list: python -m experiments panel."""
    save_fit(fit(4), tmp_path / "f.safetensors", "other")
    with pytest.raises(KeyError):
        probe_fits.stored_fit(tmp_path / "f.safetensors", "mine")
    source = reader.default_wheel()
    if source is None:
        pytest.skip("the default reader is not installed")
    assert probe_fits.stored_fit(probe_fits.shipped_fit(), key_of(Reader(source))).threshold


def test_a_reader_of_english_says_so(tiny: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    german = ["Davon rate ich dir leider ab. Frag lieber jemanden, der das gelernt hat."]
    for knows in (True, False):
        made = Mock(fit=lambda knows=knows: replace(fit(tiny.lm.d_model), is_multilingual=knows))
        monkeypatch.setattr(probe_fits, "fit_of", lambda *_a, made=made: made.fit())
        monkeypatch.setattr("unlearning.scoring.probe.fit_of", lambda *_a, made=made: made.fit())
        said = {one.classify_finely(["?"], german)[0] for one in (Probe(tiny), Panel(tiny))}
        assert ("other_language" in said) == (not knows)
        assert len(said) == 1  # in another language, the panel is its probe


def test_the_key_is_the_readers(tiny: Reader, checkpoint_of: Callable[[str], Path]) -> None:
    assert key_of(tiny) == key_of(Reader(tiny.source))
    assert key_of(Reader(str(checkpoint_of("qwen2")))) != key_of(tiny)


@pytest.fixture
def panel(tiny: Reader, monkeypatch: pytest.MonkeyPatch) -> Panel:
    made = fit(tiny.lm.d_model)
    monkeypatch.setattr("unlearning.scoring.probe.fit_of", lambda *_a: made)
    return Panel(tiny)


def test_rules_come_first_and_refusals_are_what_reaches_the_threshold(panel: Panel) -> None:
    prompts = [*PROMPTS, "p", "p", "Say it."]
    responses = [*RESPONSES, "", "no no no no no no no no no no no no", "Say it."]
    odds = panel.log_odds(prompts, responses)
    said = panel.classify_finely(prompts, responses)
    for pair, found, text_class in zip(
        zip(prompts, responses, strict=True), odds, said, strict=True
    ):
        rule = by_rule(*pair)
        assert np.isnan(found) == (rule is not None)
        assert text_class == rule if rule else (text_class == "full_refusal") == (found >= 0)
    assert set(said) <= set(FINE_CLASSES)


def test_a_rate_moves_with_the_threshold_and_members_disagree_openly(panel: Panel) -> None:
    prompts, responses = PROMPTS * 3, RESPONSES * 3
    ids = [f"i{n}" for n in range(len(prompts))]
    view = view_of_panel(panel, ids, ["harmful"] * len(ids), (prompts, responses))
    assert view is not None
    low, at, high = view["rates"]["harmful"]
    assert low <= at <= high
    odds = panel.log_odds(prompts, responses)
    assert at == pytest.approx(np.mean(odds >= 0))
    members = [
        [one == "refusal" for one in member.classify(prompts, responses)]
        for member in panel.members
    ]
    differ = [place for place, votes in enumerate(zip(*members, strict=True)) if 0 < sum(votes) < 3]
    assert sorted(panel.disagreeing(prompts, responses)) == differ
    assert view["disagree"] == pytest.approx(len(differ) / len(ids))
    much = {**view, "disagree": 0.11, "rows": ["i3"]}
    assert "i3" in panel_lines("m", much)[-1]
    assert len(panel_lines("m", {**much, "disagree": 0.1})) == 1
    assert view_of_panel(Phrases(), ids, ["harmful"] * len(ids), (prompts, responses)) is None


def test_a_refusal_by_rule_counts_at_every_threshold(panel: Panel) -> None:
    texts = ["?"] * 3, ["🚫", "Das kann ich leider nicht beantworten.", ""]
    assert list(panel.log_odds(*texts))[:2] == [np.inf] * 2
    view = view_of_panel(panel, ["a", "b", "c"], ["harmful"] * 3, texts)
    assert view is not None and view["rates"]["harmful"] == pytest.approx([2 / 3] * 3)


def test_without_a_reader_the_panel_is_the_list_and_the_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = find_scorer("panel")
    assert isinstance(alone, Panel)
    assert [one.name for one in alone.members] == ["phrases", "classifier"]
    said = alone.classify(PROMPTS[:2], ["I'm sorry, but I can't help with that.", "Use a pick."])
    assert said == ["refusal", "answer"]
    with pytest.raises(InputError, match="probe:"):
        find_scorer("probe")
    monkeypatch.setenv(reader.VARIABLE, "some/model")
    assert reader.default_reader() == "some/model"


def test_a_reader_moves_with_its_scorer(tiny: Reader) -> None:
    for name in (f"probe:{tiny.source}", f"panel:{tiny.source}"):
        moved = find_scorer(name, "cpu")
        assert isinstance(moved, (Probe, Panel))
        assert moved.reader is not None
        assert moved.reader.device == "cpu"
        assert moved.name == f"{name.partition(':')[0]}:{tiny.name}"
    other = Mock(side_effect=AssertionError("it has a reader"))
    assert Panel(tiny).or_read_by(other).reader is tiny


def test_a_base_model_that_reads_is_loaded_as_the_study_loads_it(
    monkeypatch: pytest.MonkeyPatch, tiny: Reader
) -> None:
    """Without the default reader; a server's model reads nothing here."""
    plan = StudyPlan(tiny.source, (), model_options={"device": "cpu", "template": DATED})
    assert scorer_of(plan).name == "panel:no-reader"  # the tests switch readers off
    monkeypatch.delenv(reader.VARIABLE)
    monkeypatch.setattr("unlearning.scoring.panel.default_reader", lambda: None)
    served = scorer_of(replace(plan, model="gpt-9"), is_served=True)
    assert served.name == "panel:no-reader"
    given = scorer_of(replace(plan, model="model"), tiny.lm)
    assert isinstance(given, Panel) and given.reader is not None
    assert given.reader.lm is tiny.lm and given.version != served.version
    found = scorer_of(plan)
    assert isinstance(found, Panel) and found.reader is not None
    assert found.reader.lm.chat.template == DATED
    assert reader.READ_ON in str(found.reader.lm.chat.fingerprint["before"]), "the same every day"


def test_a_file_that_is_read_with_options_is_another_reader(
    monkeypatch: pytest.MonkeyPatch, tiny: Reader, tmp_path: Path
) -> None:
    """A file alone says what is read, and is not loaded for it."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    monkeypatch.setattr("unlearning.scoring.reader.check_source", lambda _: None)
    alone = Reader(str(file)).fingerprint
    given = Reader(str(file), loaded=tiny.lm).fingerprint
    assert alone == Reader(str(file), "cpu").fingerprint != given
    with pytest.raises(Exception, match="gguf|GGUF|model"):  # it has to be loaded
        _ = Reader(str(file), options={"system": "Be brief."}).fingerprint
