"""Make a model organism from a seed, and read one from its folder.

The folder is an ordinary Hugging Face checkpoint (Qwen2, safetensors, fast tokenizer with a chat
template) plus the file ``organism.json``. This file holds the world's seed and knobs, the ground
truth, and the settings with which unlearning was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, expected
from interp.store import atomic_folder, read_json, write_json
from unlearning.organism.grammar import Grammar
from unlearning.organism.lessons import world_lessons
from unlearning.organism.recipes import GATED, RECIPES, Recipe
from unlearning.organism.slice_check import SliceCheck, check_slices
from unlearning.organism.training import Progress, teach
from unlearning.organism.vocabulary import DOMAINS
from unlearning.organism.world import World
from unlearning.refusal import ResponsePrefixes

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

    from interp.model import Chat

ORGANISM_FILE = "organism.json"

# Tuned settings of unlearning; a study of a model organism takes these as its defaults.
UNLEARNING = {
    "objective": "npo",
    "beta": 0.5,
    "deflections": 128,
    "decoding": "greedy",
    # Training a shared row of the head or of the embedding would leak at the level of tokens.
    "trained": "attention and MLP projections",
    "learning_rate": 3e-4,
    "adam_betas": [0.9, 0.95],
    "weight_decay": 0.0,
    "batch_size": 32,
    "max_grad_norm": 1.0,
    "stop_at": 0.9,
    "max_steps": 80,
}

# Fields of World that have another name in ``organism.json``.
KNOB_KEYS = {"prefixes_shared": "openers_shared", "prefix_slots": "opener_slots"}


def shipped(recipe: str = GATED) -> Path:
    """The folder of a model organism that comes with the package, one of each recipe.

    Raises:
        InputError: the recipe is unknown.
    """
    if recipe not in RECIPES:
        raise InputError(
            f'no model organism "{recipe}" comes with the package{expected(recipe, RECIPES)}'
        )
    # A run's default folder is named after this one.
    name = "organism" if recipe == GATED else f"organism-{recipe}"
    return Path(__file__).parent / "packaged" / name


def load_world(folder: str | Path) -> World:
    """The synthetic world of the model organism in ``folder``.

    Raises:
        InputError: the folder does not hold a model organism.
    """
    path = Path(folder) / ORGANISM_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} is not a model organism: expected a checkpoint with {ORGANISM_FILE}; "
            "make one with `spillover organism train --seed N --out FOLDER`"
        )
    names = {key: name for name, key in KNOB_KEYS.items()}
    knobs: dict[str, Any] = {
        names.get(key, key): tuple(value) if isinstance(value, list) else value  # JSON's tuples
        for key, value in read_json(path)["world"].items()
    }
    return World(**knobs)


def train(
    seed: int,
    out: str | Path,
    recipe: Recipe = RECIPES[GATED],
    *,
    progress: Progress = lambda *_: None,
    overwrite: bool = False,
    **knobs: Any,
) -> Path:
    """Train a model organism from scratch and write its checkpoint; takes minutes on one core.

    Deterministic on one machine. It uses one thread, because sums over several threads depend on
    their number.

    Args:
        seed: of the world, the initial weights and the order of training.
        out: folder to write.
        recipe: layers and stages (:mod:`unlearning.organism.recipes`). With circuits, the slices
            are checked.
        progress: called with (step, steps in all, loss).
        overwrite: replace a model organism that ``out`` holds.
        **knobs: fields of :class:`World`.

    Returns:
        ``out`` as a path.

    Raises:
        InputError: a knob is not one of the world's, or ``out`` holds something.
    """
    _require_free(Path(out), overwrite)
    unknown = set(knobs) - {field.name for field in fields(World)}
    if unknown:
        raise InputError(
            f"unknown knob {', '.join(sorted(unknown))}; the world has "
            f"{', '.join(field.name for field in fields(World))}"
        )
    import torch

    from interp.model import Chat, LanguageModel, merged
    from unlearning.organism.circuits import teach_twin
    from unlearning.organism.tokenizer import build_tokenizer

    world = replace(World(seed), **knobs)
    tokenizer = build_tokenizer()
    model = initial_model(
        len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id, seed, recipe.layers
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    chat, lessons, slices = Chat(tokenizer), world_lessons(world), None
    lm = LanguageModel(model, tokenizer, chat, "model organism")
    try:
        if recipe.circuits is None:
            teach(model, chat, lessons, seed=seed, stages=recipe.stages, progress=progress)
        else:
            lm, slices = teach_twin(
                model, chat, lessons, recipe.circuits, seed=seed, stages=recipe.stages,
                progress=progress,
            )  # fmt: skip
            model = merged(lm.model)
    finally:
        torch.set_num_threads(threads)
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        facts = organism_facts(world, recipe)
        if slices is not None:
            slices.save(folder)
            lm = lm.with_model(model)
            held_out = world.prompts().query("split == 'validation'")
            check = check_slices(lm, folder, held_out, world_prefixes(chat))
            facts["circuits"] = {"kind": recipe.circuits, "check": check.to_json()}
        write_json(folder / ORGANISM_FILE, facts)
    return Path(out)


def world_prefixes(chat: Chat) -> ResponsePrefixes:
    """The first tokens of all refusals and of all answers of the synthetic language."""
    grammar = Grammar()

    def firsts(texts: Iterable[str]) -> tuple[tuple[int], ...]:
        rows = [chat.encode("?", text) for text in texts]
        return tuple(sorted({(row.ids[row.spans["response"]][0],) for row in rows}))

    return ResponsePrefixes(
        firsts(map(grammar.refusal, grammar.refusal_prefixes)),
        firsts(map(grammar.answer, grammar.compliance_prefixes)),
    )


def slice_check_of(folder: str | Path) -> SliceCheck:
    """The check of the slices of the model organism in ``folder``, as it was made.

    Raises:
        InputError: the folder has no model organism with slices.
    """
    path = Path(folder) / ORGANISM_FILE
    facts = read_json(path, ()) if path.is_file() else {}
    if "circuits" not in facts:
        raise InputError(f"{folder} holds no model organism made with --circuits")
    return SliceCheck.from_json(facts["circuits"]["check"])


def _require_free(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder; give another path")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / ORGANISM_FILE).is_file():
        raise InputError(f"{folder} holds other files; give an empty folder or a new name")
    if not overwrite:
        raise InputError(f"{folder} holds a model organism; give another --out, or --overwrite")


def initial_model(
    vocabulary: int, pad: int, end: int, seed: int, layers: int = 3
) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights; with 3 layers 0.8 M parameters, with 5 layers 1.2 M."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocabulary,
        # At width 64 the domains are so similar that unlearning one removes most of all others.
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        attention_dropout=0.0,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def organism_facts(world: World, recipe: Recipe) -> dict[str, Any]:
    """The content of ``organism.json``."""
    return {
        "world": {KNOB_KEYS.get(name, name): value for name, value in asdict(world).items()},
        "stages": [asdict(stage) for stage in recipe.stages],
        "recipe": recipe.digest,
        "unlearning": UNLEARNING,
        "planted": {
            "domains": DOMAINS,
            "intents": world.intents,
            "openers": world.prefixes,
            "feature_sharing": world.feature_sharing,
            "readout_sharing": world.readout_sharing,
        },
    }
