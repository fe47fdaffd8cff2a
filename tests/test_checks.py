"""The self-check: correct models of all families pass, and a Llama with any one fault does not."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analyses.doctor.examination import PROMPT, RESPONSE
from analyses.workbench import load
from interp.activations import RESIDUAL_IN, RESIDUAL_OUT, collect, last_prompt_token
from interp.activations.adapters.transformer_lens import transformer_lens
from interp.activations.positions import mean_over
from interp.activations.sites import RESIDUAL_MID
from interp.errors import ModelError
from interp.interventions import ablate, add
from interp.interventions.edits import ablating
from interp.interventions.steering import intervene
from interp.model import Chat, LanguageModel, hidden_of, in_fitting_batches, with_hidden
from interp.model.self_check import SelfCheck
from interp.patching import stitch
from interp.readout import log_odds
from tests.checkpoints import save_checkpoint
from tests.conftest import Spillover
from tests.more_families import MORE_FAMILIES, random_model
from tests.patched_models import PROMPTS, last_logits, random_direction
from unlearning.generation import generate
from unlearning.losses import reference_log_probs, response_log_probs
from unlearning.refusal import ResponsePrefixes, prefix_masses
from unlearning.training.views import Supply

Checkpoints = Callable[[str], Path]
Fault = Callable[[Any], None]


@pytest.fixture(scope="module")
def gpt2(checkpoint_of: Checkpoints) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("gpt2"))


def with_fault(lm: LanguageModel, fault: Fault) -> LanguageModel:
    """A copy of the model with the fault built in, by hooks of the test."""
    model = copy.deepcopy(lm.model)
    fault(model)
    return replace(lm, model=model, name="faulty")


def given(module: nn.Module, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the keyword arguments of a module before every call."""

    def before(_module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> Any:
        keywords = dict(keywords)
        change(keywords)
        return arguments, keywords

    module.register_forward_pre_hook(before, with_kwargs=True)


def returned(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change the states that a module returns."""
    module.register_forward_hook(
        lambda _module, _inputs, output: with_hidden(output, change(hidden_of(output)))
    )


def ignores_mask(model: Any) -> None:
    def forget(keywords: dict[str, Any]) -> None:
        if keywords.get("attention_mask") is not None:
            keywords["attention_mask"] = torch.ones_like(keywords["attention_mask"])

    given(model.model, forget)


def counts_from_padding(model: Any) -> None:
    def count(keywords: dict[str, Any]) -> None:
        given = keywords["position_ids"]
        if given is not None and given.shape[1] > 1:
            keywords["position_ids"] = torch.arange(given.shape[1]).expand_as(given)

    given(model.transformer, count)


def mixes_rows(model: Any) -> None:
    returned(model.model.layers[1], lambda h: h + 0.3 * h.mean(dim=0, keepdim=True))


def misplaces_cached_tokens(model: Any) -> None:
    def misplace(keywords: dict[str, Any]) -> None:
        if keywords["input_ids"].shape[1] == 1:
            keywords["position_ids"] = keywords["position_ids"] + 3

    given(model.model, misplace)


def reads_ahead(model: Any) -> None:
    def ahead(h: Tensor) -> Tensor:
        return h + 0.3 * torch.cat([h[:, 1:], torch.zeros_like(h[:, :1])], dim=1)

    returned(model.model.layers[1], ahead)


def keeps_tokens_only(model: Any) -> None:
    """Upper layers see only the tokens whose logits are asked for; the logits are right."""
    asked: list[int] = []
    given(model, lambda keywords: asked.append(keywords.get("logits_to_keep", 0)))
    returned(model.model.layers[-1], lambda h: h[:, -asked[-1] :])


def scales_kept_logits(model: Any) -> None:
    forward = model.forward

    def scaled(*arguments: Any, **keywords: Any) -> Any:
        output = forward(*arguments, **keywords)
        if keywords.get("logits_to_keep"):
            output.logits = 1.1 * output.logits
        return output

    scaled.__signature__ = __import__("inspect").signature(forward)  # type: ignore[attr-defined]
    model.forward = scaled


@pytest.mark.parametrize(
    ("family", "fault", "expected"),
    [
        ("llama", ignores_mask, {"rows": "equal", "decoding": "equal"}),
        ("gpt2", counts_from_padding, {"rows": "equal", "decoding": "equal"}),
        ("llama", mixes_rows, {"rows": "single", "decoding": "single"}),
        ("llama", misplaces_cached_tokens, {"cache": False}),
        ("llama", reads_ahead, {"causal": False, "cache": False}),
        ("llama", keeps_tokens_only, {"last_logits": False}),
    ],
)
def test_a_fault_is_found_and_worked_around(
    family: str, fault: Fault, expected: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Batches and caches are used as far as they are right, so results are those of one row."""
    lm = with_fault(request.getfixturevalue(family), fault)
    found = {name: getattr(lm.checked, name) for name in vars(SelfCheck())}
    default = vars(SelfCheck())
    kept = ("stream", "causal", "rows", "decoding", "cache", "last_logits", "bypassed", "measured")
    assert {n: found[n] for n in kept} == {n: default[n] for n in kept} | expected
    alone = torch.cat([last_logits(lm, [prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(last_logits(lm), alone, atol=2e-5, rtol=2e-5)
    plain = [
        lm.model(torch.tensor([lm.chat.encode(p).ids]), use_cache=False).logits[:, -1]
        for p in PROMPTS
    ]
    torch.testing.assert_close(alone, torch.cat(plain).detach(), atol=2e-5, rtol=2e-5)
    many = generate(lm, PROMPTS, max_new_tokens=4, batch_size=64)
    assert many == generate(lm, PROMPTS, max_new_tokens=4, batch_size=1)
    states = collect(lm, PROMPTS, batch_size=64).states
    each = np.concatenate([collect(lm, [prompt]).states for prompt in PROMPTS])
    np.testing.assert_allclose(states, each, atol=2e-5, rtol=2e-4)


def test_prefixes_of_a_model_that_reads_ahead_are_those_of_generation(llama: LanguageModel) -> None:
    lm = with_fault(llama, reads_ahead)
    assert "later tokens change earlier logits" in lm.checked.line()
    row, (first, second, other) = lm.chat.encode(PROMPTS[0]), (40, 50, 60)
    tree = ResponsePrefixes(refusal=((first, second),), compliance=((first, other),))
    chance = 1.0
    for said, token in (((), first), ((first,), second)):
        logits = lm.model(torch.tensor([[*row.ids, *said]]), use_cache=False).logits[0, -1].detach()
        chance *= float(logits.double().softmax(-1)[token])
    assert prefix_masses(lm, [row], tree).p_R[0] == pytest.approx(chance, rel=1e-4)


def test_kept_logits_that_are_others_are_not_used(llama: LanguageModel) -> None:
    lm = with_fault(llama, scales_kept_logits)
    assert not lm.checked.last_logits
    torch.testing.assert_close(last_logits(lm), last_logits(llama))
    # Generation in transformers asks for them, and nothing here can prevent it.
    assert "generation differs from the forward" in lm.checked.line()


def streams(count: int) -> Fault:
    """Layers that return ``count`` streams, stacked before the batch."""

    def fault(model: Any) -> None:
        for i, layer in enumerate(model.model.layers):
            if i:
                layer.register_forward_pre_hook(lambda _m, args: (args[0].mean(dim=0), *args[1:]))
            returned(layer, lambda h: torch.stack([h] * count))
        model.model.norm.register_forward_pre_hook(lambda _m, args: (args[0].mean(dim=0),))

    return fault


def wide_stream(model: Any) -> None:
    width = model.config.hidden_size
    for i, layer in enumerate(model.model.layers):
        if i:
            layer.register_forward_pre_hook(lambda _m, args: (args[0][..., :width], *args[1:]))
        returned(layer, lambda h: torch.cat([h] * 4, dim=-1))
    model.model.norm.register_forward_pre_hook(lambda _m, args: (args[0][..., :width],))


def mixes_tokens_at(path: str) -> Fault:
    """A layer that is in no list: it reads the tokens before, as attention does."""

    def fault(model: Any) -> None:
        returned(model.get_submodule(path), lambda h: h + h.cumsum(dim=1) / 8)

    return fault


def changes_between_layers(model: Any) -> None:
    """The second half of the layers is called on something else."""
    layers = model.model.layers
    layers[2].register_forward_pre_hook(lambda _m, args: (2 * args[0], *args[1:]))


def calls_one_layer_twice(model: Any) -> None:
    model.model.layers[2] = model.model.layers[1]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (streams(4), r"output has shape \(4, 1, 24, 64\), expected \(batch, token, d_model\)"),
        (wide_stream, r"output has shape \(1, 24, 256\), expected"),
        (mixes_tokens_at("model.embed_tokens"), "before layer 0, so the 4 layers found are not"),
        (mixes_tokens_at("model.norm"), "output of layer 3 does not determine the logits"),
        (changes_between_layers, "the output of layer 1 is not the input of layer 2"),
        (calls_one_layer_twice, r"called in the order \[0, 1, 2, 1, 2, 3\]"),
    ],
)
def test_what_is_not_the_residual_stream_is_not_read(
    fault: Fault, words: str, llama: LanguageModel
) -> None:
    lm = with_fault(llama, fault)
    with pytest.raises(ModelError, match=words):
        collect(lm, PROMPTS)
    with (
        pytest.raises(ModelError, match=words),
        add(lm, random_direction(), layers=[1], positions=last_prompt_token),
    ):
        pass
    assert generate(lm, PROMPTS, max_new_tokens=2, batch_size=64) == generate(
        lm, PROMPTS, max_new_tokens=2, batch_size=1
    )


def skips_to_the_end(model: Any) -> None:
    """The last layer adds the embeddings, which no state after a layer holds."""
    embedded: list[Tensor] = []
    returned(model.model.embed_tokens, lambda h: embedded.append(h) or h)  # type: ignore[func-returns-value]
    returned(model.model.layers[3], lambda h: h + embedded[-1])


def test_what_bypasses_the_stream_is_said(llama: LanguageModel) -> None:
    check = with_fault(llama, skips_to_the_end).checked
    assert check.bypassed == (0, 2)
    assert not check.stream
    assert "bypasses the residual stream (after layer 0" in check.line()
    assert llama.checked.line() == "self-check: all is well"


def test_patching_warns_where_something_bypasses_the_stream(llama: LanguageModel) -> None:
    lm = with_fault(llama, skips_to_the_end)
    with pytest.warns(UserWarning, match="faulty: something bypasses .* leave that out"):
        stitch(lm, lm, PROMPTS[:2], log_odds([5]), layers=[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stitch(llama, llama, PROMPTS[:2], log_odds([5]), layers=[1])


def test_correct_models_pass(checkpoint: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check = LanguageModel.load(checkpoint, dtype=dtype).checked
        assert not check.lines()
        assert check.last_logits
        # Far from the limit on both sides: faults are some percent of the size at least.
        worst = max(size for size in check.differences.values())
        assert worst < check.limit / (50 if dtype is torch.float32 else 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_more_correct_models_pass(family: str) -> None:
    assert not random_model(*MORE_FAMILIES[family]).checked.lines()


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        # A recurrence that reads the padding.
        ("RwkvConfig", {"rows": "equal", "decoding": "single"}),
        # One that does not, and whose cache has no length.
        ("MambaConfig", {}),
        # A checkpoint that asks for no cache.
        ("MptConfig", {}),
    ],
)
def test_generation_is_that_of_one_prompt(family: str, expected: dict[str, Any]) -> None:
    """In models of other kinds; ``last_prompt_token`` stays where it is."""
    sizes = {"RwkvConfig": {"hidden_size": 48, "attention_hidden_size": 48}}
    sizes["MambaConfig"] = {"hidden_size": 48, "state_size": 8}
    sizes["MptConfig"] = {"d_model": 48, "n_heads": 4, "use_cache": False}
    layers = {"n_layers": 3} if family == "MptConfig" else {"num_hidden_layers": 3}
    lm = random_model(family, {**sizes[family], **layers})
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.ndim > 1:
                parameter *= 4  # states of the context, not only of the token
    for name, value in expected.items():
        assert getattr(lm.checked, name) == value
    vector = 5 * random_direction(0, 48)
    with add(lm, vector, layers=[1], positions=last_prompt_token):
        found = generate(lm, PROMPTS, max_new_tokens=4)
        # A loop of the caller's, without a cache: the text grows from call to call.
        ids = torch.tensor([lm.chat.encode(PROMPTS[1]).ids])
        grown = lm.model.generate(  # type: ignore[operator]
            ids, use_cache=False, max_new_tokens=4, do_sample=False, pad_token_id=0
        )
    for prompt, answer in zip(PROMPTS, found, strict=True):
        tokens = list(lm.chat.encode(prompt).ids)
        last = len(tokens) - 1

        def edit(_module: nn.Module, _inputs: Any, output: Any, last: int = last) -> Any:
            states = hidden_of(output).clone()
            states[:, last] += vector
            return with_hidden(output, states)

        with lm.layers[1].register_forward_hook(edit), torch.no_grad():
            for _ in answer.ids:
                logits = lm.model(torch.tensor([tokens]), use_cache=False).logits
                tokens.append(int(logits[0, -1].argmax()))
        assert answer.ids == tuple(tokens[last + 1 :])
        if prompt == PROMPTS[1]:
            assert grown[0].tolist()[: len(tokens)] == tokens


def test_a_check_runs_once_for_the_same_weights_and_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPILLOVER_CACHE", str(tmp_path / "cache"))
    folder = save_checkpoint("llama", tmp_path / "model")
    first = LanguageModel.load(folder)
    (kept,) = (tmp_path / "cache/checks").iterdir()
    from interp.model import kept_checks
    from interp.model.kept_checks import last_check

    def must_not_run(_lm: LanguageModel) -> SelfCheck:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(kept_checks, "check_model", must_not_run)
        assert LanguageModel.load(folder).checked == first.checked
        kept.write_text("{", encoding="utf-8")
        with pytest.raises(AssertionError):
            LanguageModel.load(folder)
    assert LanguageModel.load(folder).checked == first.checked  # and written again

    # Another check may find something else.
    other = tmp_path / "checks.py"
    other.write_bytes(kept_checks.CHECKING[-1].read_bytes() + b"\n")
    with monkeypatch.context() as patched:
        patched.setattr(kept_checks, "check_model", must_not_run)
        patched.setattr(kept_checks, "CHECKING", (*kept_checks.CHECKING[:-1], other))
        assert last_check(folder) is None
        with pytest.raises(AssertionError):
            LanguageModel.load(folder)

    save_checkpoint("llama", tmp_path / "model", seed=1)
    LanguageModel.load(folder)
    assert len(list((tmp_path / "cache/checks").iterdir())) == 2

    # Other code is another model: here, one that ignores the mask.
    trunk = type(first.model.model)
    forward = trunk.forward

    def careless(self: Any, *arguments: Any, **keywords: Any) -> Any:
        keywords["attention_mask"] = torch.ones_like(keywords["attention_mask"])
        return forward(self, *arguments, **keywords)

    monkeypatch.setattr(trunk, "forward", careless)
    with pytest.warns(UserWarning, match="only prompts of equal length share a batch"):
        assert LanguageModel.load(folder).checked.rows == "equal"


def test_a_model_that_does_not_fit_its_tokenizer_is_refused(llama: LanguageModel) -> None:
    small = copy.deepcopy(llama.model)
    small.set_input_embeddings(nn.Embedding(40, 64))
    with pytest.raises(ModelError, match="does not run on a prompt of 24 tokens"):
        _ = replace(llama, model=small).checked


def test_a_padding_token_that_the_model_does_not_know_is_refused(llama: LanguageModel) -> None:
    tokenizer = copy.deepcopy(llama.tokenizer)
    tokenizer.add_special_tokens({"pad_token": "<|new|>"})
    small = copy.deepcopy(llama.model)
    small.resize_token_embeddings(tokenizer.pad_token_id)
    given = replace(llama, model=small, tokenizer=tokenizer, chat=Chat(tokenizer))
    with pytest.raises(ModelError, match="pads with token"):
        _ = given.checked


def test_logits_that_are_no_numbers_are_refused(llama: LanguageModel) -> None:
    damaged = copy.deepcopy(llama.model)
    with torch.no_grad():
        damaged.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="gives NaN as logits.*in float32"):
        _ = replace(llama, model=damaged).checked


def test_rows_share_a_batch_only_with_their_like() -> None:
    rows = ["x" * n for n in (3, 5, 3, 5, 5, 1, 3, 5)]
    kinds = [len(row) % 3 + (i > 5) for i, row in enumerate(rows)]
    batches = [chosen for chosen, _ in in_fitting_batches(rows, 2, lambda _: None, kinds)]
    assert sorted(i for chosen in batches for i in chosen) == list(range(len(rows)))
    for chosen in batches:
        assert len({kinds[i] for i in chosen}) == 1
    assert [len(rows[chosen[0]]) for chosen in batches] == sorted(
        (len(rows[chosen[0]]) for chosen in batches), reverse=True
    )


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        # The layer multiplies what attention and MLP return before it adds it.
        ("GraniteConfig", {"residual_multiplier": 0.3, "num_key_value_heads": 2}),
        # Attention adds the stream inside its module.
        ("BloomConfig", {}),
        # Nothing in a layer is attention.
        ("MambaConfig", {"state_size": 8}),
    ],
)
def test_ablation_removes_a_direction_from_all_that_blocks_read_and_write(
    config: str, settings: dict[str, Any]
) -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 3}
    if config != "MambaConfig":
        sizes |= {"num_attention_heads": 4}
    lm = random_model(config, {**sizes, **settings})
    direction = random_direction(0, 48)
    unit = (direction / direction.norm()).numpy()
    with ablate(lm, direction):
        states = collect(lm, PROMPTS, sites=[RESIDUAL_IN, RESIDUAL_OUT])
        for site in (RESIDUAL_IN, RESIDUAL_OUT):
            lengths = np.linalg.norm(states[site], axis=-1)
            assert (np.abs(states[site] @ unit) / lengths).max() < 1e-5
        logits = last_logits(lm)
    assert (logits - last_logits(lm)).abs().max() > 1e-3
    if config == "GraniteConfig":
        # The same states, edited where each is read.
        sites = [RESIDUAL_IN, replace(RESIDUAL_MID, read_only=False), RESIDUAL_OUT]
        with intervene(lm, ablating(direction), sites=sites):
            torch.testing.assert_close(last_logits(lm), logits, atol=1e-6, rtol=1e-5)


def test_training_reads_rows_that_must_not_share_a_forward_apart(llama: LanguageModel) -> None:
    """Loss and gradient of a step are those of each row alone."""
    lm = with_fault(llama, ignores_mask)
    assert lm.checked.rows == "equal"
    rows = [lm.chat.encode(prompt, "I will not." * (i + 1)) for i, prompt in enumerate(PROMPTS)]
    order = [2, 0, 3, 1]
    batch = lm.chat.pad([rows[i] for i in order])
    wanted = torch.cat([reference_log_probs(lm, [rows[i]])[0] for i in order])
    values, mask = response_log_probs(lm.model, lm.inputs(batch), batch.response_mask, lm.checked)
    torch.testing.assert_close(values[mask].detach(), wanted, atol=2e-5, rtol=2e-5)
    tensors = {**lm.inputs(batch), "response_mask": batch.response_mask}
    tensors |= {
        "group": torch.zeros(4, dtype=torch.long),
        "preferred": torch.zeros(4, dtype=torch.bool),
    }
    tensors["reference"] = torch.zeros_like(values)
    needs = [frozenset({"log_probs", "states", "mask"})]
    supply = Supply(needs, layer="model.layers.1", check=lm.checked)
    (view,) = supply.views(lm.model, tensors)
    torch.testing.assert_close(view["log_probs"], values, atol=2e-5, rtol=2e-5)
    # At the tokens that predict the response: from the prompt's last to the last but one.
    for i, row in enumerate(order):
        first = len(rows[row]) - int(mask[i].sum()) - 1
        tokens = replace(rows[row], spans={"read": slice(first, len(rows[row]) - 1)})
        states = collect(lm, [tokens], layers=[1], positions=mean_over("read")).states[0, 0]
        own = view["states"][i, mask[i]].mean(dim=0).detach().numpy()
        np.testing.assert_allclose(own, states, atol=2e-5, rtol=2e-4)
    view["log_probs"].sum().backward()
    found = lm.layers[1].mlp.down_proj.weight.grad.clone()
    lm.model.zero_grad()
    for row in rows:
        one = lm.chat.pad([row])
        response_log_probs(lm.model, lm.inputs(one), one.response_mask)[0].sum().backward()
    torch.testing.assert_close(found, lm.layers[1].mlp.down_proj.weight.grad, atol=1e-4, rtol=1e-4)


def test_the_doctor_says_what_a_model_is(spillover: Spillover) -> None:
    code, said, _ = spillover("doctor", "organism")
    facts = dict(line.split(": ", 1) for line in said.splitlines())
    assert code == 0 and facts["self-check"] == "all is well"
    assert facts["layers"] == "5 at model.layers, width 128"
    assert "residual_in" in facts["sites"] and "heads (4 heads)" in facts["sites"]
    assert re.fullmatch(r"[\d.]+ s for 4 short rows .*", facts["LoRA step"])
    assert facts["massive activations"].startswith("none")
    assert facts["direction gate"].startswith("not measured; --gate")
    lm = load("organism")
    response = lm.chat.encode(PROMPT, RESPONSE)
    ids = response.ids[response.spans["response"]]
    assert facts["response in its conversation"].startswith(" ".join(map(str, ids)) + " (")
    assert f"answers end at {lm.tokenizer.eos_token_id}" in facts["special tokens"]


def test_the_doctor_ends_with_the_reason_for_a_refusal(
    spillover: Spillover, checkpoint_of: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts first, then one line; generation works nevertheless."""
    trunk = type(LanguageModel.load(checkpoint_of("llama")).model.model)
    forward = trunk.forward

    def elsewhere(self: Any, *arguments: Any, **keywords: Any) -> Any:
        output = forward(self, *arguments, **keywords)
        states = output.last_hidden_state
        output.last_hidden_state = states + states.cumsum(dim=1) / 8
        return output

    monkeypatch.setattr(trunk, "forward", elsewhere)
    code, said, error = spillover("doctor", checkpoint_of("llama"), "--no-step")
    assert code == 2 and "sites: none" in said and "LoRA step" not in said
    (line,) = [one for one in error.splitlines() if one.startswith("error: ")]
    assert "does not determine the logits token by token" in line


def test_plans_and_manifests_show_the_check(
    spillover: Spillover, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPILLOVER_CACHE", str(tmp_path / "cache"))
    plan = ["evaluate", "organism", "--dry-run"]
    assert "\nself-check: runs when the model is loaded\n" in spillover(*plan)[2]
    load("organism")
    assert "\nself-check: all is well\n" in spillover(*plan)[2]


def test_states_of_another_library_are_the_model_s(
    llama: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapper whose states differ is refused."""

    def other(lm: LanguageModel) -> Any:
        model: Any = copy.deepcopy(lm.model)
        model.model.layers[1].mlp.down_proj.weight.data *= 1.2
        return model

    monkeypatch.setattr("interp.activations.adapters.transformer_lens.merged_copy", other)
    with pytest.raises(ModelError, match="TransformerLens differs from LlamaForCausalLM at"):
        collect(llama, PROMPTS[:1], backend=transformer_lens)


def keeps_its_last_states(model: Any) -> None:
    """Each forward begins where the last one ended."""
    last: list[Tensor] = [torch.zeros(())]

    def add(states: Tensor) -> Tensor:
        kept, last[0] = last[0], states[:, -1:].mean(dim=0, keepdim=True)
        return states + 0.1 * kept

    returned(model.model.layers[0], add)


def draws_in_eval_mode(model: Any) -> None:
    returned(model.model.layers[0], lambda h: nn.functional.dropout(h, 0.1, training=True))


@pytest.mark.parametrize("fault", [keeps_its_last_states, draws_in_eval_mode])
def test_a_model_that_does_not_repeat_itself_is_refused(fault: Fault, llama: LanguageModel) -> None:
    lm = with_fault(llama, fault)
    with pytest.raises(ModelError, match="gives the same prompt other logits after other prompts"):
        _ = lm.checked


def runs_one_row_only(model: Any) -> None:
    def refuse(_module: nn.Module, inputs: tuple[Tensor]) -> None:
        if len(inputs[0]) > 1:
            raise RuntimeError("batches are not supported")

    model.model.layers[0].register_forward_pre_hook(refuse)


def test_a_model_without_batches_runs_row_by_row(llama: LanguageModel) -> None:
    lm = with_fault(llama, runs_one_row_only)
    assert (lm.checked.rows, lm.checked.decoding) == ("single", "single")
    torch.testing.assert_close(last_logits(lm), last_logits(llama), atol=2e-5, rtol=2e-5)


def test_layers_are_found_where_the_configuration_counts_others(llama: LanguageModel) -> None:
    """Some count the two halves of a layer; the self-check sees that the list is whole."""
    lm = with_fault(llama, lambda model: setattr(model.config, "num_hidden_layers", 8))
    assert lm.n_layers == 4 and not lm.checked.stream
    half = with_fault(llama, lambda model: setattr(model.config, "num_hidden_layers", 3))
    layers: Any = half.model.model.layers  # type: ignore[union-attr]
    half.model.model.first, half.model.model.layers = layers[0], layers[1:]  # type: ignore[union-attr]
    forward = half.model.model.embed_tokens.register_forward_hook  # type: ignore[union-attr]
    forward(lambda _module, _inputs, out: out + out.cumsum(dim=1) / 8)
    assert "the 3 layers found are not all" in half.checked.stream
