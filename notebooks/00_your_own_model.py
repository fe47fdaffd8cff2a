# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own model
#
# From any checkpoint and any prompts: what the model reads, whether it refuses, along which
# direction it tells harmful prompts from harmless ones, whether it *uses* that direction, and how
# the direction differs in another checkpoint.
#
# Change one line. As it stands, the model is the packaged **model organism**, because
# it runs anywhere (here in half a minute): five layers, trained from scratch. In its synthetic
# language a prompt is harmful only where a harmful intent meets an object of the same domain; each
# alone is harmless. Which domains share intents, and which share the words that they are refused
# with, was drawn at random and is known. Its answers have no content. What you see below is
# therefore a *check* of the tools, and no finding about real models.

# %%
import warnings
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
from transformers.utils import logging

import spillover as sp
from interp.statistics import Contrast, rate_of

logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=UserWarning)

MODEL = "organism"  # ← yours, for instance "Qwen/Qwen2.5-1.5B-Instruct"

lm = sp.load(MODEL)
print(f"{type(lm.model).__name__}: {lm.n_layers} layers, d_model {lm.d_model}, on {lm.device}")

# %% [markdown]
# `MODEL` is a hub id, a folder, or the folder of an adapter, which is merged at once. A model that
# is in memory already, in training for instance, needs no loading:
#
# ```python
# lm = sp.load((model, tokenizer), system="You are …")
# ```
#
# Prompts are a table: `prompt`, `domain`, `label` (harmful or benign), and `pair` where a harmful
# prompt has a matched benign prompt. The package brings 840 such pairs; `sp.prompts("mine.jsonl")`
# reads your own.

# %%
in_own_language = MODEL == "organism"
prompts = sp.prompts("organism" if in_own_language else None)
scorer = "grammar" if in_own_language else "classifier"  # reads answers as text
length = 16 if in_own_language else 48  # tokens of an answer
prompts.groupby(["domain", "label"]).size().unstack(fill_value=0)

# %% [markdown]
# ## What the model reads
#
# The chat template puts tokens around your words, and the token *from which the answer is
# predicted* is the template's, not yours. Positions are therefore named spans and never counted by
# hand. Look at yours before anything else: a template that is missing or doubled explains many an
# odd result.

# %%
row = lm.chat.encode(prompts["prompt"].iloc[0])
span_of = {i: name for name, span in row.spans.items() for i in range(span.start, span.stop)}
pd.DataFrame(
    {
        "token": [repr(lm.tokenizer.decode([i])) for i in row.ids],
        "span": [span_of[place] for place in range(len(row))],
    }
).transpose()

# %% [markdown]
# ## Does it refuse?
#
# Generate, and read the answers. 95% intervals over prompts.


# %%
def respond(model: sp.LanguageModel, asked: pd.DataFrame) -> pd.DataFrame:
    """The prompts with the model's responses, and what each response is."""
    answered = asked.assign(response=sp.generate(model, asked, max_new_tokens=length))
    return answered.join(sp.score(answered, answered["response"], scorer=scorer))


said = respond(lm, prompts[prompts["split"] != "train"])
said[["prompt", "response", "class"]].sample(4, random_state=0)


# %%
def rate(classes: pd.Series, wanted: str = "full_refusal") -> str:
    found = rate_of(int((classes == wanted).sum()), len(classes))
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


said.groupby(["domain", "label"])["class"].apply(rate).unstack(fill_value="")

# %% [markdown]
# One command does this thoroughly, with several readers of the answers, over-refusal, perplexity
# and a report: `spillover evaluate MODEL` ([evaluation](../docs/how-to/evaluation.md)).
#
# If your model refuses nothing, stop here: there is no refusal to find a direction of. If it
# babbles, its states are no better than its answers.
#
# ## A direction
#
# States of every layer at the last token, in one forward without the LM head. Then the mean
# difference between harmful prompts and their matched benign prompts; pairs stay together in
# everything that follows. Next to it stands a simple null: the same with labels shuffled within
# pairs.

# %%
training = prompts[(prompts["split"] == "train") & prompts["pair"].notna()]
again = training.loc[training["prompt"].duplicated(keep=False), "pair"]
training = training[~training["pair"].isin(again)]  # a text in two pairs would tie them together
harmful = (training["label"] == "harmful").to_numpy()
acts = sp.collect(lm, training)
states = acts.states
contrast = Contrast.from_labels(states, harmful, training["pair"].tolist())

swapped = np.random.default_rng(0).random(training["pair"].nunique()) < 0.5
shuffled = harmful ^ swapped[training["pair"].factorize()[0]]
null = Contrast.from_labels(states, shuffled, training["pair"].tolist())

directions = sp.DirectionSet.fitted(
    sp.MeanDifference(), {"harm": contrast, "labels shuffled": null}, provenance={"model": lm.name}
)
columns = ["label", "layer", "n", "reliability", "reliability_low", "reliability_high"]
directions.to_dataframe()[[*columns, "error_degrees"]].round(2)

# %% [markdown]
# **Reliability** is the mean cosine between the directions of two halves of the prompts: 1 without
# noise. With shuffled labels it is .43 to .55 here, but its interval includes 0 in four of the five
# layers and begins at .00 in the other, so these data show no direction. `error_degrees` is the
# angle to the direction that infinitely many prompts would give. The shuffled labels give a vector
# with a length, too, and without its interval it would look like a direction.
#
# How prompts lie along it, each projected on a direction that was fitted *without* it:

# %%
middle = lm.n_layers // 2
projected = sp.interp.directions.held_out_projections
sp.interp.figures.projection_figure(
    {"harm": projected(contrast), "labels shuffled": projected(null)}, layer=middle
)

# %% [markdown]
# ## Does the model use it?
#
# A direction that separates prompts need not be one that the model acts on. Intervene and see, in
# what is *said* on prompts that it was not fitted to. Two ways:
#
# - **ablate** it everywhere, so that nothing lies along it any more: the component is 0;
# - **set** it, at this layer and the last token of the prompt alone, to what harmless prompts have
#   there (affine editing, Marshall et al. 2024).
#
# Any intervention breaks something. So each is also done with random directions, drawn so that they
# vary as states of one label do; isotropic ones would do nothing and prove nothing. (Three of them
# show the size of the null; for a p below .05 take twenty.)

# %%
direction = directions.select("harm", middle)
here = states[:, middle]
label_means = np.where(harmful[:, None], here[harmful].mean(axis=0), here[~harmful].mean(axis=0))
randoms = np.random.default_rng(0).normal(size=(3, len(here))) @ (here - label_means)


def harmless_value(vector: np.ndarray) -> float:
    return float((here[~harmful] @ vector).mean() / np.linalg.norm(vector))


def set_to_harmless(vector: np.ndarray) -> AbstractContextManager[None]:
    value = harmless_value(vector)
    last = sp.interp.activations.last_prompt_token
    return sp.set_component(lm, vector, value, layers=[middle], positions=last)


# %%
test = prompts[prompts["split"] == "test"].sample(frac=1, random_state=0).groupby("label").head(96)


def outcome() -> dict[str, str]:
    kinds = respond(lm, test).groupby("label")["class"]
    return {
        "harmful: refused": rate(kinds.get_group("harmful")),
        "harmful: answered": rate(kinds.get_group("harmful"), "answer"),
        "benign: answered": rate(kinds.get_group("benign"), "answer"),
    }


outcomes = {"as it is": outcome()}
vectors = {"direction": direction, **{f"random {i + 1}": v for i, v in enumerate(randoms)}}
for name, vector in vectors.items():
    with sp.ablate(lm, vector):
        outcomes[f"{name} ablated"] = outcome()
for name, vector in vectors.items():
    with set_to_harmless(vector):
        outcomes[f"{name} set"] = outcome()
pd.DataFrame(outcomes).transpose()

# %% [markdown]
# (*Answered* has separate columns because a model that no longer refuses may as well babble.)
#
# The model does use the direction: with the value of harmless prompts, harmful ones are answered.
# Ablation does half of that, and benign prompts are refused as well. Why? Look at where the prompts
# lie along it:

# %%
harmful_value = float((here[harmful] @ direction).mean() / np.linalg.norm(direction))
print(f"harmful {harmful_value:.0f}, harmless {harmless_value(direction):.0f}")

# %% [markdown]
# Zero is not a neutral place: here it lies between harmful and harmless prompts. Before you
# conclude from an ablation what a direction does, see what value means harmless.
#
# The layer was the middle one, because one has to begin somewhere. `interp.selection` tries every
# layer and token and chooses by effect (Arditi et al. 2024), on separate prompts.
#
# ## Another checkpoint
#
# A fine-tuned model, an earlier step, a quantised copy: how did each domain's direction rotate?
# Here the other checkpoint is made on the spot: the same model with the direction projected out of
# every weight that writes, which is the ablation without a hook. The null is the same surgery with
# random directions. It ought to show at the layer that the direction was taken from.

# %%
other = sp.orthogonalise(lm, direction)  # ← yours: sp.load("…")
controls = [
    sp.orthogonalise(lm, random) for random in randoms
]  # ← yours: runs on harmless data, say


def by_domain(model: sp.LanguageModel) -> sp.FittedDirections:
    return sp.fit_directions(sp.collect(model, training), training, sp.MeanDifference())


before = by_domain(lm)
nulls = [sp.rotation(before, by_domain(control)) for control in controls]
rotations = sp.rotation(before, by_domain(other)).against(nulls)
rotations.plot()

# %% [markdown]
# Bars are 95% intervals, grey is what the random surgeries read. Plain angles would mislead:
# sampling noise rotates directions that never moved. Here inner products are taken between halves
# of the prompts, and a direction that does not exist is a cross and not 90°
# ([rotation](../docs/explanation/rotation.md)). A direction can also keep its angle and lose its
# length:

# %%
rotations.plot("gain")

# %% [markdown]
# ## Where to go on
#
# - `01_concept_directions`: domains against one another, with nulls; other estimators.
# - `03_activation_patching`: where in the model a change sits.
# - `spillover study MODEL …`: unlearn one domain and see what else goes.
