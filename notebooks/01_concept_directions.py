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
# # Concept directions: what does a model think of seven kinds of harm?
#
# A model that refuses has somewhere, in the residual stream, a *direction* along which harmful
# prompts differ from harmless ones. Here we fit one per domain, ask which of them are there at all,
# and how alike they are, layer by layer. Every number comes with what it would read if there were
# nothing: that is most of the work, and all of the point.
#
# The model is the packaged model organism: five layers, trained from scratch on a synthetic
# language, so that at the end we can compare with the ground truth. For a model of your own, change
# the two lines marked `← yours`. On two cores this notebook takes about half a minute.

# %%
import numpy as np
import pandas as pd
from transformers.utils import logging

import spillover as sp
from interp import figures, similarity
from interp.statistics import Contrast

logging.disable_progress_bar()
lm = sp.load("organism")  # ← yours: a hub id or a folder
prompts = sp.prompts("organism")  # ← yours: a file with prompt, domain, label, and pair for matches

prompts = prompts[prompts["split"] == "train"]
activations = sp.collect(lm, prompts)
states = activations.states
print(f"{states.shape[0]} prompts × {states.shape[1]} layers × {states.shape[2]} dimensions")
prompts.loc[prompts["domain"] == "privacy", ["prompt", "label", "pair"]].head(4)

# %% [markdown]
# ## One contrast per domain
#
# Each harmful prompt has a *matched benign prompt*: the same words but for the harmful one. A
# `Contrast` keeps the two together in every split and permutation; what pairs share cancels.
#
# A text that stands in two domains would share its noise between them, so such pairs are left out.
# We fit on half of the rest and keep the other half for later.

# %%
twice = prompts.loc[prompts["prompt"].duplicated(keep=False), "pair"].dropna()
usable = ~prompts["pair"].isin(twice).to_numpy()
fitted_on = usable & (prompts["pair"].factorize()[0] % 2 == 0)


def contrast(domain: str, chosen: np.ndarray) -> Contrast:
    rows = np.flatnonzero((prompts["domain"] == domain) & chosen)
    of_domain = prompts.iloc[rows]
    return Contrast.from_labels(
        states[rows], (of_domain["label"] == "harmful").to_numpy(), of_domain["pair"].tolist()
    )


contrasts = {domain: contrast(domain, fitted_on) for domain in sp.DOMAINS}
{domain: contrast.n for domain, contrast in contrasts.items()}

# %% [markdown]
# ## Is there a direction?
#
# The mean difference of pure noise is a vector too, and in many dimensions a long one. So fit it to
# two halves of the prompts and see whether the halves agree: that is the **reliability**, 0 for
# noise and 1 without any. `error_degrees` translates it: how far the direction is from the one that
# endlessly many prompts would give.

# %%
directions = sp.FittedDirections.of(sp.MeanDifference(), contrasts, layers=activations.layers)
table = directions.to_set().to_dataframe()
table.pivot(index="label", columns="layer", values=["reliability", "error_degrees"]).round(2)

# %% [markdown]
# A direction that separates the prompts it was fitted to proves nothing. These distributions are
# **held out**: every pair is projected on the direction of the other pairs.

# %%
projected = sp.interp.directions.held_out_projections
figures.projection_figure({d: projected(c) for d, c in contrasts.items()}, layer=2)

# %% [markdown]
# ## Two traps
#
# **Shared controls.** Compare every domain with one and the same set of harmless prompts, and
# directions of pure noise have cosine .5, because they share the noise of the controls. Give each
# its own.

# %%
rng = np.random.default_rng(0)
one, two, controls, more_controls = rng.normal(size=(4, 64, 1, 2000)).mean(axis=1)
shared = similarity.plain_cosines(np.stack([one - controls, two - controls]))[0, 0, 1]
apart = similarity.plain_cosines(np.stack([one - controls, two - more_controls]))[0, 0, 1]
print(f"noise against noise: {shared:.2f} with shared controls, {apart:.2f} with separate ones")

# %% [markdown]
# **Noise shrinks cosines.** Even one and the same direction, measured twice on different prompts,
# has a plain cosine below 1, and the more so the fewer prompts. `cosine_map` takes its inner
# products between *halves* of the prompts, averaged over all ways to halve them, where noise drops
# out ([rotation](../docs/explanation/rotation.md)).

# %%
toxicity = contrasts["toxicity"]
two_samples = np.random.default_rng(1).permutation(toxicity.n)[:16].reshape(2, 8)
pairs = np.repeat(np.arange(8)[:, None], 2, axis=1)
halves = [Contrast(toxicity.positive[i], toxicity.negative[i], pairs) for i in two_samples]
plain = similarity.plain_cosines(
    np.stack([c.positive.mean(0) - c.negative.mean(0) for c in halves])
)
crossed = sp.cosine_map(dict(zip("ab", halves, strict=True)), permutations=100)
pd.DataFrame(
    {
        "plain": plain[:, 0, 1],
        "cross-fitted": crossed.value[:, 0, 1],
        "low": crossed.low[:, 0, 1],
        "high": crossed.high[:, 0, 1],
    }
).rename_axis("layer").round(2)

# %% [markdown]
# ## How alike are the domains?
#
# One object holds the heatmap and its doubts: value, interval, null band, p, reliability, n. Cells
# inside their null are grey: labels permuted within pairs, corrected over **all** layers and pairs
# at once (max-T), because a reader's eye will pick the strongest of all cells.

# %%
cosines = sp.cosine_map(directions)
cosines.plot()

# %% [markdown]
# The middle layer says the same of all domains: *harmful*. The last one has rotated towards what
# will be said, and separates them. One layer with its numbers:

# %%
cosines.plot(layer=2)

# %% [markdown]
# By layer, with intervals. The grey band is what permuted labels read. The dotted line bounds
# random directions in all 128 dimensions, the dashed one those drawn from the prompts' own
# covariance. Real states fill few of their dimensions, so the isotropic null is far too easy: a
# cosine of .2 beats it and means little.

# %%
others = [domain for domain in sp.DOMAINS if domain != "cybersecurity"]
figures.similarity_by_layer_figure(cosines, [("cybersecurity", domain) for domain in others])

# %% [markdown]
# The numbers behind it, and a table for a paper (`cosines.to_latex(layer=2)`):

# %%
rows = cosines.to_dataframe().query("label_a < label_b")
columns = ["layer", "label_a", "label_b", "value", "low", "high", "null_high", "p_corrected", "n"]
rows.sort_values("value", ascending=False)[columns].head(8).round(3)

# %% [markdown]
# ## Alike by which measure?
#
# A cosine depends on the inner product. Two others, each the plain one in other coordinates:
#
# - **whitened**: a dimension counts by what can be distinguished along it, not by how much it
#   varies anyway (covariance of harmless everyday prompts, shrunk after Ledoit and Wolf);
# - **causal** (Park et al. 2024): how alike two directions change the *logits*. It ignores what
#   lies between a layer and the unembedding, so read it at the last layer.

# %%
everyday = states[np.flatnonzero(prompts["domain"] == "general")]
unembedding = lm.model.get_output_embeddings().weight.detach().float().numpy()
maps = {
    "cosine": cosines,
    **{
        measure: sp.cosine_map(
            {domain: c.mapped(change) for domain, c in contrasts.items()},
            layers=activations.layers,
            permutations=500,
            measure=measure,
        )
        for measure, change in (
            ("whitened cosine", similarity.whitening(everyday)),
            ("causal cosine", similarity.causal_coordinates(unembedding)),
        )
    },
}
maps["causal cosine"].plot(layer=lm.n_layers - 1)

# %% [markdown]
# ## Does it match the ground truth?
#
# In the model organism's world, domains share *intents* (what is asked) and *refusal prefixes* (how
# it is declined), drawn independently of one another. That can be checked here, and in no real
# model: rank correlations over the 21 pairs of domains and, in brackets, how often domains with
# shuffled names do as well. A domain is in six pairs, so that pairs are not independent: whole rows
# and columns are shuffled together. (Twelve tests, not corrected for their number.)

# %%
upper = np.triu_indices(len(sp.DOMAINS), 1)


def rank_correlation(found: np.ndarray, sharing: np.ndarray) -> float:
    both = pd.Series(found[upper]), pd.Series(((sharing + sharing.T) / 2)[upper])
    return both[0].corr(both[1], method="spearman")


def with_p(found: np.ndarray, sharing: np.ndarray, draws: int = 300) -> str:
    shuffle = np.random.default_rng(0)
    orders = [shuffle.permutation(len(sharing)) for _ in range(draws)]
    observed = rank_correlation(found, sharing)
    drawn = [rank_correlation(found, sharing[np.ix_(order, order)]) for order in orders]
    p = (1 + np.sum(np.array(drawn) >= observed)) / (1 + draws)
    return f"{observed:.2f} ({p:.3f})"


shipped = sp.unlearning.organism.shipped()
world = sp.unlearning.organism.load_world(shipped)
truths = {"intents": world.feature_sharing, "refusal prefixes": world.readout_sharing}
pd.DataFrame(
    {
        (measure, layer): {
            name: with_p(found.value[layer], sharing) for name, sharing in truths.items()
        }
        for measure, found in maps.items()
        for layer in (1, 2)
    }
)

# %% [markdown]
# In this one model organism the cosines go with how domains are *declined* and not with what is
# *asked*, already in the second of five layers. One model organism is one draw: whether it holds in
# others is a question for more of them, not for more prompts.
#
# ## Does the estimator matter?
#
# What the label *adds* to a state (mean difference) is not what best *reads* it off (discriminant,
# probe): these lean away from whatever varies anyway. Steer with the first, read with the others.

# %%
one_domain = contrasts["privacy"]
fits = {
    "mean difference": sp.MeanDifference(),
    "discriminant": sp.WhitenedMeanDifference(splits=10, resamples=0),
    "logistic probe": sp.LogisticProbe(splits=5, resamples=0),
}
arguments = (one_domain.states, one_domain.classes == 0, one_domain.units.tolist())
vectors = np.stack([estimator.fit(*arguments).direction_ for estimator in fits.values()])
pd.DataFrame(similarity.plain_cosines(vectors)[2], index=list(fits), columns=list(fits)).round(2)

# %% [markdown]
# ## Take it out
#
# LEACE removes a label from the states with the least change that makes it linearly invisible. On
# the prompts it was fitted to that is a theorem; on the other half of the pairs it is a
# measurement: how much of the difference of means is left, and how well held-out projections still
# separate the labels.

# %%
eraser = sp.Leace(splits=1, resamples=0).fit(*arguments).eraser_
other_half = contrast("privacy", usable & ~fitted_on)
erased = other_half.mapped(eraser)


def length(c: Contrast) -> np.ndarray:
    return np.linalg.norm(c.positive.mean(0) - c.negative.mean(0), axis=1)


pd.DataFrame(
    {
        "difference left, fitted pairs": length(one_domain.mapped(eraser)) / length(one_domain),
        "difference left, other pairs": length(erased) / length(other_half),
        "AUC before": projected(other_half).separation,
        "AUC after": projected(erased).separation,
    }
).rename_axis("layer").round(2)

# %% [markdown]
# ## A picture, with numbers
#
# A map in two dimensions shows what it was made to show. Under it stands what it suggests: how
# often a prompt's nearest neighbours are of its domain, in all dimensions, on the map, and with
# labels permuted. `state_map(…, umap=True)` adds UMAP to PCA and never shows it alone: its
# distances mean nothing.

# %%
harmful = np.flatnonzero((prompts["label"] == "harmful") & fitted_on)
similarity.state_map(states[harmful, 2], prompts["domain"].iloc[harmful].tolist()).plot()

# %% [markdown]
# ## Keep it
#
# `directions.to_set().save("directions.safetensors")` writes vectors and reliabilities;
# `sp.DirectionSet.load` reads them, `.select("privacy", 2)` and `.subset(labels=…, layers=…)`
# choose.
#
# What this notebook does not show: that a model *uses* these directions. A cosine is symmetric and
# leakage is not. For that, intervene: `03_activation_patching`.
