"""Examine a loaded model: the self-check, and the facts that every study depends on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyses.costs import most_resident
from analyses.runs import Progress
from interp.activations import SITES, blocks, head_count, massive_activations
from interp.errors import ModelError, SpilloverError
from interp.model import Chat, LanguageModel, SelfCheck

if TYPE_CHECKING:
    import torch

    from interp.selection import DirectionGate

PROMPT, RESPONSE = "How do I bake bread?", "Mix flour and water."
SYSTEM = "⟦spillover-system⟧"
BATCH, RANK = 4, 8


@dataclass(frozen=True)
class Examination:
    """What was found; ``str()`` of it is what ``spillover doctor`` prints.

    Attributes:
        check: the model's self-check.
        facts: everything in words, by what it is about.
        layers_of_site: numbers of the layers that offer each site; empty without a stream.
        step_seconds: time of one LoRA step, forward and backward; None if it did not run.
        step_bytes: most memory during the step on a GPU, or by which the process grew on a CPU;
            None if unknown.
        gate: the direction gate, if it was asked for and could be tested.
    """

    check: SelfCheck
    facts: Mapping[str, str]
    layers_of_site: Mapping[str, tuple[int, ...]]
    step_seconds: float | None = None
    step_bytes: int | None = None
    gate: DirectionGate | None = None

    def __str__(self) -> str:
        return "\n".join(f"{name}: {fact}" for name, fact in self.facts.items())

    __repr__ = __str__


def examine(
    lm: LanguageModel, *, step: bool = True, gate: bool = False, progress: Progress | None = None
) -> Examination:
    """Examine ``lm``.

    Args:
        lm: the model; with ``step`` it has a new adapter afterwards, so load it for this alone.
        step: run one LoRA step.
        gate: test whether one direction carries refusal; it generates responses. What it finds is
            kept, so an interrupted call goes on.
        progress: shows the stages of the gate (default: nothing is shown).
    """
    check, chat = lm.checked, lm.chat
    first = next(lm.model.parameters())
    count = sum(parameter.numel() for parameter in lm.model.parameters())
    facts = {
        "model": f"{lm.name} ({type(lm.model).__name__}), {count:,} parameters, "
        f"{str(first.dtype).removeprefix('torch.')}, on {lm.device}",
        "self-check": check.line().partition(": ")[2],
        "template": _template(chat),
        "prompt": _shown(lm, chat.encode(PROMPT).ids),
        "response in its conversation": _response(lm),
        "special tokens": _special_tokens(lm),
        "layers": _layers(lm),
    }
    offered = {} if check.stream else _sites(lm)
    facts["sites"] = _offered(lm, offered)
    tested = None
    if not check.stream:
        facts["massive activations"] = str(massive_activations(lm))
        tested, facts["direction gate"] = _gate(lm, gate, progress or Progress(quiet=True))
    seconds = size = None
    if step:
        try:
            seconds, size = _step(lm)
            room = "" if size is None else f", {size / 2**20:,.0f} MiB more memory"
            facts["LoRA step"] = f"{seconds:.2f} s for {BATCH} short rows (rank {RANK}){room}"
        except SpilloverError as error:
            facts["LoRA step"] = f"refused: {error}"
    return Examination(check, facts, offered, seconds, size, tested)


def _gate(lm: LanguageModel, wanted: bool, progress: Progress) -> tuple[DirectionGate | None, str]:
    """The gate, if it is wanted and can be tested, and its line."""
    from analyses.workbench import resumed_gate

    if not wanted:
        return None, "not measured; --gate measures it (it generates responses)"
    try:
        found = resumed_gate(lm, progress)
    except SpilloverError as error:
        return None, f"not tested: {error}"
    return found, found.line


def _template(chat: Chat) -> str:
    """Whose template it is, and what it does with a generation prompt and a system message."""
    whose = "missing; a plain one is used" if chat.is_fallback else "the model's own"
    if chat.template is not None and not chat.is_fallback:
        whose = "as given"
    tail = chat.encode(PROMPT).spans["post_instruction"]
    opens = "opens the model's turn" if tail.stop > tail.start else "has no generation prompt"
    try:
        with_system = Chat(
            chat.tokenizer,
            template=chat.template,
            system=SYSTEM,
            template_arguments=chat.template_arguments,
        )
        ids = with_system.encode(PROMPT).ids
        taken = SYSTEM in str(with_system.tokenizer.decode(list(ids)))
        system = "takes a system message" if taken else "drops the system message"
    except ModelError:
        system = "refuses a system message"
    return f"{whose}; {opens}; {system}" + (f"; {chat.note}" if chat.note else "")


def _response(lm: LanguageModel) -> str:
    try:
        tokens = lm.chat.encode(PROMPT, RESPONSE)
    except ModelError as error:
        return f"refused: {error}"
    return _shown(lm, tokens.ids[tokens.spans["response"]])


def _shown(lm: LanguageModel, ids: Sequence[int]) -> str:
    """Token ids, and the text of each."""
    texts = " ".join(repr(str(lm.tokenizer.decode([i]))) for i in ids)
    return f"{' '.join(map(str, ids))} ({texts})"


def _special_tokens(lm: LanguageModel) -> str:
    from unlearning.generation import stop_tokens

    tokenizer = lm.tokenizer
    found = [
        f"{name} {token!r} ({tokenizer.convert_tokens_to_ids(token)})" if token else f"{name} none"
        for name in ("bos", "eos", "pad")
        for token in [getattr(tokenizer, f"{name}_token")]
    ]
    return f"{', '.join(found)}; answers end at {', '.join(map(str, sorted(stop_tokens(lm))))}"


def _layers(lm: LanguageModel) -> str:
    try:
        layers = lm.layers
    except ModelError as error:
        return f"not found: {error}"
    path = next((name for name, m in lm.model.named_modules() if m is layers), "")
    return f"{len(layers)} at {path}, width {lm.d_model}"


def _sites(lm: LanguageModel) -> dict[str, tuple[int, ...]]:
    """The layers that offer each site."""
    found = blocks(lm, range(lm.n_layers))
    return {
        name: tuple(block.number for block in found if site.find(block) is not None)
        for name, site in SITES.items()
    }


def _offered(lm: LanguageModel, layers_of_site: Mapping[str, tuple[int, ...]]) -> str:
    if not layers_of_site:
        return "none"
    parts = []
    for name, layers in layers_of_site.items():
        counts = sorted({head_count(lm, i) for i in layers}) if SITES[name].per_head else []
        more = f" ({' or '.join(map(str, counts))} heads)" if counts else ""
        if len(layers) == lm.n_layers:
            parts.append(f"{name}{more}")
        elif layers:
            parts.append(f"{name}{more} in layers {', '.join(map(str, layers))}")
    missing = [name for name, layers in layers_of_site.items() if not layers]
    return ", ".join(parts) + (f"; not {', '.join(missing)}" if missing else "")


def _step(lm: LanguageModel) -> tuple[float, int | None]:
    """Seconds and bytes of one LoRA step without the optimizer."""
    from unlearning.losses import response_log_probs
    from unlearning.training import TrainingSettings, prepare_in_place

    ids = lm.chat.encode(PROMPT).ids[-4:]  # any ordinary tokens, if a text response is refused
    trained = prepare_in_place(lm, TrainingSettings(lora_rank=RANK, lora_alpha=RANK))
    rows = [lm.chat.encode(PROMPT, ids)] * BATCH
    batch = trained.chat.pad(rows, trained.device)
    before = _memory(trained.device, reset=True)
    started = time.perf_counter()
    log_probs, _ = response_log_probs(
        trained.model, trained.inputs(batch), batch.response_mask, trained.checked
    )
    (-log_probs.sum()).backward()
    after = _memory(trained.device)  # waits for the device
    seconds = time.perf_counter() - started
    return seconds, None if before is None or after is None else max(after - before, 0)


def _memory(device: torch.device, *, reset: bool = False) -> int | None:
    """Most bytes in use so far, on a GPU since the last reset; None where it is unknown."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.max_memory_allocated(device))
    return most_resident()
