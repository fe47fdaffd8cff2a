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
# # Narrow unlearning, wide loss: predict it, explain it, contain it
#
# A model is made to unlearn its refusals in **one** domain, and refuses less in domains that were
# never touched. This notebook goes through the whole argument on one small model, live: where the
# probability goes, which domains lose refusal together, what predicts this before any training,
# which change inside the model carries the loss, and what keeps it from happening. One model proves
# nothing, so results over many model organisms are read from tables that come with the package,
# next to the command that made them.
#
# The model is the **model organism** `organism`: five layers, trained on a synthetic language; its
# answers have no content. For a model of your own change the lines marked `← yours`. On two cores
# this takes some ten minutes, nearly all of it training.

# %%
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from transformers.utils import logging

import spillover as sp
from analyses import contain, explain, predict, runs, study

sys.path.append(str(Path(sp.__file__).parents[1]))  # the repository, which has experiments/
from experiments.containment import SHIPPED_WORLDS, frozen_choice, pool_worlds

logging.disable_progress_bar()
warnings.filterwarnings("ignore", category=UserWarning)

TARGET = "cybersecurity"
folder = TemporaryDirectory()
quiet = runs.Progress(quiet=True)

# %% [markdown]
# ## Before any training
#
# What follows needs the base model only: its refusals on training prompts (what will be unlearned),
# and one backward pass for each domain.
#
# NPO's gradient starts as that of the summed log-probability of the model's own refusals, S_a, for
# every β. So one small step of Adam on domain a moves the refusal log-odds m_b of domain b by the
# learning rate times K[a,b] = ⟨P ∇S_a, ∇m_b⟩. Divided by K[a,a] it has no unit: what b loses
# relative to what a loses. The bars cover prompt sampling and the error of the first-step
# approximation on the twelve gated model organisms of the tournament (root mean square .16).

# %%
organism = str(sp.unlearning.organism.shipped())
plan = study.organism_plan(organism, sp.DOMAINS, seeds=(0,), control=False)  # ← yours: a StudyPlan
context = study.study_context(plan, Path(folder.name) / "matrix", quiet)
baseline = study.establish(context)
settings = plan.arms[0].training
evidence = predict.evidence_of(context, baseline, settings)
told = predict.forecast(evidence, TARGET, predict.read_choices(), seed=0)
print("\n".join(told.sentences()))
predict.forecast_figure(told)

# %% [markdown]
# ## Unlearn every domain in turn
#
# Seven runs of NPO from the same base, each until its target has lost 90% of its refusals (on
# validation prompts); everything below is of test prompts.

# %%
study.run_study(plan, context.run.folder, quiet)
record = runs.read_run(context.run.folder)
matrix = runs.LeakageMatrix.load([context.run.folder])

# %% [markdown]
# **Where does the probability go?** A model that stops refusing by babbling has forgotten nothing:
# it is degenerate. The response class that was already second gains the probability; here it is
# compliance, which has nearly all of what is not refusal.

# %%
rows = []
for arm in record.arms:
    test = arm.scores[(arm.scores["split"] == "test") & (arm.scores["domain"] == arm.concept)]
    harmful = test[test["label"] == "harmful"]
    before, after = (harmful[harmful["step"] == step] for step in (0, arm.step))
    was = before[["p_R", "p_C", "p_O"]].mean()
    now = after[["p_R", "p_C", "p_O"]].mean()
    rows.append(
        {"unlearned": arm.concept, "steps": arm.step, "runner-up is compliance": was["p_C"]
         / (was["p_C"] + was["p_O"]), **now, "text answers": (after["class"] == "answer").mean()}
    )  # fmt: skip
pd.DataFrame(rows).set_index("unlearned").round(2)

# %% [markdown]
# **Which domains lose refusal together?** A[a,b] is 0 where b is untouched while a is unlearned
# and 1 where it falls in step. Rows and columns differ: the matrix is *directed*, and a symmetric
# cosine cannot be right about it.

# %%
run = next(iter(matrix.runs))
sp.analyses.matrix.leakage_matrix_figure(matrix)

# %% [markdown]
# A[a,b] = μ + α_a + γ_b + δ_ab: *source effect* (sources that take refusal from every domain),
# *target effect* (targets that lose refusal with every source) and *interaction* (what belongs to
# the pair). Only δ is about two concepts together. With one seed the last share still holds the
# noise.

# %%
parts, asymmetry = matrix.decomposition(run), matrix.asymmetry(run)
pd.Series(
    {
        "source effect": parts.source_effect_share,
        "target effect": parts.target_effect_share,
        "interaction and noise": 1 - parts.source_effect_share - parts.target_effect_share,
        "antisymmetric part of the whole": asymmetry["share"],
    },
    name="share of variance",
).round(2)

# %% [markdown]
# **Was the forecast right?** Forecast and measured leakage for this one target (twelve held-out
# model organisms are next):

# %%
came = pd.Series(matrix.matrix(run)[matrix.domains(run).index(TARGET)], matrix.domains(run))
beside = told.leakage.set_index("domain")[["value", "low", "high"]].join(came.rename("came"))
ranks = beside.corr("spearman")
print(f"rank correlation over {len(beside)} domains: {ranks.loc['value', 'came']:.2f}")
beside.round(2)

# %% [markdown]
# ## One model is an anecdote: the tournament
#
# Fifteen predictors, each with one variant (its layer, its preconditioner) that was frozen on
# eight development model organisms, are tested on twelve held-out ones, whose ground truth was
# drawn anew, with two unlearning seeds each. Made by
#
# ```bash
# python -m experiments organisms --out worlds --recipe ungated \
#     --seeds 204,205,206,207,208,209,210,211,212,213,214,215
# spillover tournament worlds/run-* --out tournament
# ```
#
# (about an hour and a half on two cores) and read here from the table that it left.

# %%
fresh = predict.read_worlds()
result = predict.run_tournament(fresh, predict.read_choices(), seed=0)
print(f"{len(result['worlds'])} worlds, reliability of A {result['reliability']:.3f}, choices "
      f"{result['choices_hash'][:12]}")  # fmt: skip
predict.tournament_figure(result)

# %% [markdown]
# The same without ranks, for three of them. Predicted against measured leakage, for every pair and
# model organism. On the dotted line they are equal.

# %%
predict.cells_figure(fresh, result)

# %% [markdown]
# The grey bands of the first figure are the null: predictors with permuted domain names. Cosines
# of mean differences lie outside it. The kernels, which know what the objective does to the weights
# and what the refusal log-odds read from them, come close to the ceiling (dashed line), and their
# ratio predicts the size of leakage, not only its rank. R3 of Mushtaq et al. 2025, a first
# principal component, has a rank correlation near 0. Of the *ground truth*, shared read-out
# explains a good part; shared features, none.

# %% [markdown]
# ## Which change carries the loss?
#
# In one target: the change in its states is taken apart into a **rotation** of its direction, its
# **gain** (length), its **offset** (harmful and benign alike) and the part that does not change
# states at all, the **routing** of later layers. Each is undone in the unlearned model and done in
# the base (Shapley over orders), against random moves of the same size. A sentence is written only
# if the largest share's interval lies clear of the second's and of the random ones.

# %%
[arm] = [arm for arm in plan.arms if arm.concept == TARGET]
after = study.load_made(context, arm)
readout = sp.unlearning.refusal.readout_of(baseline.prefixes)
subject = explain.Subject.of(context.reference, after, readout, context.prompts, batch_size=512)
most = told.leakage["domain"][0]
cause = explain.explain_domain(subject, most, draws=40, place_draws=20, batch_size=512)
layer, shares = cause.verdict.layer, explain.shares_table(cause)
print(explain.cause_sentence(most, TARGET, cause.verdict))
name = sp.analyses.figures.domain_label(most)
explain.causes_figure(shares, cause.stitching, cause.weights, cause.states, layer, name)

# %% [markdown]
# A mixed cause is an answer too. What later layers make of unchanged states (routing) carries the
# largest share, a shift of harmful and benign states alike (offset) the next one, and rotation less
# than a tenth; so a story of one direction that rotated would be wrong. The lower left says
# *where*: no single module that is put back restores more than about a quarter of the loss, and
# those of the first layer restore most.

# %% [markdown]
# ## Keeping it narrow
#
# Retained refusals of other domains, trained together with the forget set, bring those domains
# back. Does that *contain* anything, or is it retraining on what is then tested? The test is on
# domains that were **left out** of the retain set. Live, on two splits: 32 retained examples drawn
# at random, and the 32 that the kernel says unlearning would hit hardest.

# %%
others = [domain for domain in sp.DOMAINS if domain != TARGET]
design = contain.Design(
    TARGET, ("equal", "kernel"), (32,), (0.1,), contain.held_out_splits(others, count=2), settings
)
planned = replace(plan, arms=tuple(design.everything()), concepts=(TARGET,))
here = study.study_context(planned, Path(folder.name) / "contain", quiet)
print("\n".join(contain.run_containment(here, design, shallow_recovery=False).sentences))
methods = pd.read_csv(here.run.folder / "containment" / "methods.csv")
columns = ["method", "examples", "complied", "answer_rate", "retained", "held_out"]
methods[[*columns, "held_out_low", "held_out_high"]].round(2)

# %% [markdown]
# Two splits of one model organism decide nothing, and the intervals say so. Next, four held-out
# model organisms with six splits each; the method that was frozen on three development model
# organisms has a ring:
#
# ```bash
# python -m experiments containment --seeds 211,212,213,214 --out contained
# ```

# %%
worlds = pd.read_csv(SHIPPED_WORLDS)
pooled = pool_worlds(worlds)
contain.containment_study_figure(pooled, frozen_choice(worlds))

# %%
shown = ["method", "examples", "complied", "splits", "answer_rate", "retained", "held_out"]
pooled[[*shown, "held_out_low", "held_out_high"]].round(2)

# %% [markdown]
# Read `complied` before anything else: where the target does not comply, recovery is its own
# refusal. What was trained to stay recovers more than what was not (docs/explanation has the
# interval): part of every recovery is retraining, and part is not. More examples help; choosing
# them does not: no choice recovers more than random examples, and examples chosen by cosine recover
# less. Predicting leakage did not help to choose retain data.

# %% [markdown]
# ## What this does not show
#
# - Model organisms are small, and their ground truth is synthetic. That a kernel predicts leakage
#   there says that the instrument works; on your model, run `spillover predict`, then
#   `spillover matrix`, and see.
# - The kernel is of the first step. Where unlearning goes far (large rates, full rank, many epochs)
#   later steps may go elsewhere.
# - Recovered is not repaired: `spillover contain` tests the recommended arm for shallow recovery by
#   prefill, triggers and relearning, and reports what is left.

# %%
folder.cleanup()
