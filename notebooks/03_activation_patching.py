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
# # Activation patching: where did the refusal go?
#
# A model has unlearned to refuse in one domain. Two models, before and after, run on the same
# prompt; a state (or a matrix) of one is put into the other, one place at a time. What comes back
# says where the change sits. Needs no pairs of prompts, and works for any two checkpoints of one
# architecture.
#
# The model is the packaged **model organism**: five layers, trained from scratch on a synthetic
# language; its answers have no content. It is unlearned here, in seconds. For two models of your
# own, change the lines marked `← yours`. On two cores this notebook takes under a minute.

# %%
import copy
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

import spillover as sp
from interp.activations import ATTENTION_OUT, HEADS, MLP_OUT, RESIDUAL_OUT
from interp.patching import (
    PromptPairs,
    attribute,
    between_models,
    patch,
    patch_agreement,
    patch_weights,
)

logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=UserWarning)

TARGET = "cybersecurity"
base = sp.load("organism")  # ← yours: the model before
prompts = sp.prompts("organism")  # ← yours: a file with prompt, domain, label, split
SCORER = "grammar"  # ← yours: "classifier"

# %% [markdown]
# ## The model's own refusals
#
# They are what will be unlearned, and what its refusals *open with* gives the readout: the log-odds
# that the answer begins with a refusal, in nats, read off one forward without generating anything.
# The prefixes are the base model's over all domains, frozen: both models are measured by one ruler.


# %%
def respond(lm: sp.LanguageModel, asked: pd.DataFrame) -> pd.DataFrame:
    """The prompts with the model's responses, and what each response is."""
    answered = asked.assign(response=sp.generate(lm, asked))
    return answered.join(sp.score(answered, answered["response"], scorer=SCORER))


readout = sp.refusal_log_odds(base, prompts)
said = respond(base, prompts[prompts["split"] == "train"])
said.groupby(["label", "class"]).size().unstack(fill_value=0)

# %% [markdown]
# ## Unlearn
#
# Negative preference optimisation (Zhang et al. 2024) on refusals of one domain, nothing retained.
# Twice: for 20 steps, and for half as many again.

# %%
npo = sp.unlearning.training.TrainingSettings(
    objective="npo",
    options={"beta": 0.5},
    trained="projections",
    learning_rate=3e-4,
    adam_betas=(0.9, 0.95),
)
how = {"concept": TARGET, "settings": npo, "forgetting_level": 1.0, "quiet": True}  # all steps
after = sp.unlearn(base, prompts, max_steps=20, **how)  # ← yours: sp.load("…"), adapters merged
longer = sp.unlearn(base, prompts, max_steps=30, **how)

# %% [markdown]
# ## First: complied, refused, or babbled?
#
# The readout cannot tell. It falls when the model answers, and it falls just as far when the model
# says nothing that is language. So look at what is *said*, on prompts that nothing was trained on,
# before a single state is patched.

# %%
held_out = prompts[(prompts["split"] == "test") & (prompts["label"] == "harmful")]
of_target = held_out[held_out["domain"] == TARGET]


def outcome(lm: sp.LanguageModel, record: sp.TrainingRecord, step: int) -> dict[str, object]:
    responses = respond(lm, of_target)
    classes = responses["class"]
    scores = record.scores[record.scores["prompt_id"].isin(of_target["id"])]
    scored = scores[scores["step"] == step]
    answers = sp.interp.statistics.rate_of(int((classes == "answer").sum()), len(classes))
    return {
        **{name: (classes == name).mean() for name in ("full_refusal", "evasion", "gibberish")},
        "answer": answers.value,
        "answer, 95%": f"{answers.low:.2f} to {answers.high:.2f}",
        "refusal log-odds (nats)": scored["margin"].mean(),
        "p_O": scored["p_O"].mean(),
        "for example": responses.loc[classes == classes.mode()[0], "response"].iloc[0],
    }


three = {
    "before": (base, after.record, 0),
    "after 20 steps": (after, after.record, 20),
    "after 30 steps": (longer, longer.record, 30),
}
pd.DataFrame({name: outcome(*about) for name, about in three.items()}).transpose()

# %% [markdown]
# Both **complied**. Log-odds cannot show degeneration: a model that writes gibberish after a
# compliance prefix has the same log-odds and the same p_O (the mass on neither kind of prefix) as
# one that answers, and the heatmaps below would look the same. So we read the text first. We go on
# with the first model. What it lost in other domains, although nothing else was trained on:

# %%
elsewhere = respond(after, held_out)
pd.crosstab(elsewhere["domain"], elsewhere["class"], normalize="index").round(2)

# %% [markdown]
# ## States, by layer and position
#
# The base model gives, the unlearned one takes: which of its states are *enough* to bring refusal
# back? Values are shares of the gap between the two models: 0 nothing, 1 all of it.
#
# **The null.** A patch is a long move, and long moves do things. So every cell is also moved *as
# far* in random directions that its own states do take (drawn from their covariance; isotropic ones
# would do next to nothing, and make any patch look like a finding). Grey cells are within what such
# moves reach, corrected for looking at all cells at once.

# %%
texts = of_target["prompt"].tolist()
runs = between_models(base, after, texts)
by_position = patch(runs, readout, controls=20, batch_size=64)
by_position.plot(runs.labels())

# %% [markdown]
# The last row is the token from which the answer is predicted; at the last layer it *is* the
# answer, and closes the gap by construction. In the layers below it closes a part of the gap, more
# with every layer; no other token brings anything back. (A cell may be beyond its null and nothing
# all the same: coloured, but pale.) The numbers, with intervals over prompts and the band of the
# random moves:

# %%
columns = ["layer", "position", "fraction", "fraction_low", "fraction_high"]
columns += ["effect", "control_low", "control_high", "p_family_wise", "n"]
by_position.to_dataframe()[columns].sort_values("fraction", ascending=False).head(4).round(2)

# %% [markdown]
# ## Representation or routing?
#
# A base state that brings back a part only: perhaps the state changed little, and later layers
# *read* it differently. Stitch the models at a layer, both ways round. The change then splits in
# two shares (Shapley values) that add to 1 at every layer: what is in the **states** up to here,
# and what is in how the layers above **read** them.

# %%
stitched = sp.stitch(base, after, texts, readout=readout)
stitched.plot()

# %%
shares = stitched.to_dataframe()
shares.assign(sum=shares["representation"] + shares["routing"]).round(2)

# %% [markdown]
# Bars are 95% over prompts; small, because the prompts of this world are alike. From the second
# layer on, most of the change is in the states.
#
# ## Components and heads
#
# What single layers *write*: attention, MLP, and each head's part before the output projection.

# %%
last_token = "post_instruction[-1]"
written = patch(
    runs,
    readout,
    sites=[ATTENTION_OUT, MLP_OUT],
    positions=["instruction", last_token],
    controls=20,
    batch_size=64,
)
written.plot(runs.labels())

# %%
heads = patch(runs, readout, sites=[HEADS], positions=[last_token], controls=20, batch_size=64)
heads.plot(runs.labels())

# %% [markdown]
# The last layer's MLP alone brings back almost half of the gap, the first layer's a quarter, and
# no attention more than an eighth. Single heads bring back next to nothing: some are beyond chance,
# because a random move of their length does even less. Grey is a result, too: these components
# carry no more of the change than such a move.
#
# ## Weights
#
# States can be put where a model would never go. Weights are exact: give the unlearned model one
# module back and see what returns. The null: moves of the same module by as much, in random
# directions. (Modules that unlearning left alone are not shown.)


# %%
def moved_at_random(seed: int) -> sp.LanguageModel:
    """The unlearned model, every matrix moved as far as from the base, in a random direction."""
    model = copy.deepcopy(after.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            length = (base.model.get_parameter(name) - weight).norm()
            noise = torch.randn(weight.shape, generator=generator)
            weight += length * noise / noise.norm()
    return replace(after, model=model)


def random_moves(draws: int) -> np.ndarray:
    sources = [moved_at_random(seed) for seed in range(draws)]
    return np.stack(
        [patch_weights(between_models(d, after, texts), readout).patched for d in sources]
    )


weights = replace(patch_weights(runs, readout), controls=random_moves(40))
weights.plot()

# %% [markdown]
# No module brings back much by itself, and the first layer's two bring back most: the change is
# spread over the layers, and later ones pass on what earlier ones wrote. Shares do not add up:
# modules work together. The reverse question, in a model that kept *only* one module's change, asks
# what would have been enough:

# %%
patch_weights(runs.reversed(), readout).plot()

# %% [markdown]
# (No random moves here: grey means that the interval over prompts holds 0, a far weaker null.)
#
# Did the other domains lose their refusals in the same place? Share of the gap that each layer's
# MLP gives back, by domain, next to the gap in nats; a dash where it is less than one nat.

# %%
rows = []
for domain, of_domain in held_out.groupby("domain"):
    given_back = patch_weights(between_models(base, after, of_domain["prompt"].tolist()), readout)
    table = given_back.to_dataframe().query("component == 'mlp'")
    rows.append(table.assign(domain=domain, gap=given_back.gap))
mlps = pd.concat(rows)
mlps["share"] = [
    f"{row.fraction:.2f} ({row.fraction_low:.2f} to {row.fraction_high:.2f})"
    if row.defined
    else "–"
    for row in mlps.itertuples()
]
mlps["gap"] = mlps["gap"].round(1)
mlps.pivot(index=["domain", "gap"], columns="layer", values="share")

# %% [markdown]
# ## Attribution patching: fast, and when to believe it
#
# One gradient gives all cells to first order; on a large model that is seconds against hours. It is
# wrong where something saturates, so report its correlation with the exact effects, on a few
# prompts, next to it. Here, over cells, in both directions:

# %%
kinds = {
    "residual stream": [RESIDUAL_OUT],
    "components": [ATTENTION_OUT, MLP_OUT],
    "heads": [HEADS],
}
agreements = {}
for way, between in (("base into after", runs), ("after into base", runs.reversed())):
    for kind, sites in kinds.items():
        exact = patch(between, readout, sites=sites, batch_size=64)
        found = patch_agreement(attribute(between, readout, sites=sites), exact)
        agreements[way, kind] = {
            "Pearson": found.pearson,
            "Spearman": found.spearman,
            "cells": found.n,
        }
pd.DataFrame(agreements).transpose().round(2)

# %% [markdown]
# Good here, in both directions, even for the residual stream. That need not be so: where unlearning
# pushes the prefixes that it was trained on so far down that the log-odds hang on the others, the
# gradient no longer sees what a patch brings back, and the correlation can be negative. Print it
# next to the heatmap.
#
# ## Between prompts
#
# The other kind of patching needs pairs: a harmful prompt and its **matched benign prompt**, in
# which one word is another. Here prompts that keep the verb and change the object. Patching token
# by token would break as soon as one word is a token longer, so positions are **roles**: you name
# the words, everything around them is aligned by itself. The harmful prompt gives, the benign one
# takes (denoising).

# %%
matched = prompts[(prompts["split"] == "test") & (prompts["domain"] == TARGET)]
matched = matched.pivot(index="pair", columns="label")
matched = matched[matched["intent", "harmful"] == matched["intent", "benign"]]


def roles(label: str) -> list[dict[str, str]]:
    words = zip(matched["intent", label], matched["object", label], strict=True)
    return [{"intent": intent, "object": thing} for intent, thing in words]


pairs = PromptPairs(
    matched["prompt", "harmful"], matched["prompt", "benign"], roles("harmful"), roles("benign")
)
print(pairs.clean[0], "→", pairs.corrupted[0])
denoising = pairs.denoising(base)
enough = patch(denoising, readout, controls=40, batch_size=64)
enough.plot(denoising.labels())

# %% [markdown]
# The decision is at the last token from the first layer on; the object's own state no longer
# matters there. Yet the cells that close the whole gap are **grey**: in this model many a long move
# of that state brings refusal on. It was taught to answer what it knows to be harmless, so losing
# that is enough. The effects of the first layer's random moves, in nats:

# %%
[first] = [
    i for i, cell in enumerate(enough.cells) if (cell.layer, cell.position) == (0, last_token)
]
moves = (enough.controls - enough.target).mean(axis=2)[:, first]
print(f"patched: {enough.effect[first]:.1f}; random, sorted:", np.sort(moves).round(1))

# %% [markdown]
# So ask the other way round (**noising**): the benign prompt gives, the harmful one takes. Which
# states does refusal *need*? Random moves do not make a model answer.

# %%
noising = pairs.noising(base)
patch(noising, readout, controls=20, batch_size=64).plot(noising.labels())

# %% [markdown]
# ## What this does not show
#
# - Enough is not the same as used: a patch can wake a path that the model does not take by itself
#   (Makelov et al. 2023). Pair it with the reverse, and with weights.
# - One run of unlearning on one small model organism. Another seed may take another path: repeat it
#   before you believe a layer's number.
# - Intervals are over prompts of this kind, not over models.
