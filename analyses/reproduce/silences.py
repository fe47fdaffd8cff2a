"""Where the paper is silent or does not agree with itself, and what is done here instead."""

from __future__ import annotations

from dataclasses import dataclass

from analyses.reproduce.protocol import BETA, RETAIN_WEIGHT, UTILITY_DROP, UTILITY_POINTS


@dataclass(frozen=True)
class Silence:
    """One point.

    Attributes:
        about: in a few words.
        paper: what it says, or that it does not say.
        here: what is done here.
        why: the reason.
        inconsistent: the paper contradicts itself, rather than being silent.
    """

    about: str
    paper: str
    here: str
    why: str
    inconsistent: bool = False


SILENCES: tuple[Silence, ...] = (
    Silence(
        "NPO's β",
        "not given",
        f"{BETA:g}",
        "the value of NPO's reference code and of most who followed it",
    ),
    Silence(
        "w1 and w2",
        "not given",
        f"1 and {RETAIN_WEIGHT:g}, both losses summed over a response's tokens",
        "a token mean beside a summed NPO would weaken the retain term by the responses' length",
    ),
    Silence(
        "forget:retain 1:1 to 1:3",
        "the loss has expectations, whose weight a ratio does not change; a sum over the batch "
        "would weigh retain data by it",
        "means, as the equation has them: the ratio is how many retain examples are seen",
        "it is what is written",
    ),
    Silence(
        "which point of the grid",
        "the best is reported; we found no measure of best, and no prompts to choose on but those "
        "that are reported",
        "one stated point by default; with --grid all of them, chosen on validation prompts and "
        "reported on test prompts",
        "the best of 36 (or 108) by the test set is better than any of them is",
    ),
    Silence(
        "early stop",
        f"a checkpoint with an MMLU drop under {UTILITY_POINTS:g} points on five subjects; we "
        "found neither their names nor how often it is looked at",
        "the checkpoint at which the target has lost most, among those whose answers to benign "
        f"validation prompts open as before but for {UTILITY_DROP:.0%} of their probability "
        "(p_C); MMLU afterwards where --tasks asks for it",
        "it can be looked at along the run, at no cost and without a network",
    ),
    Silence(
        "the rule of stopping, kept?",
        "three rows lie 3.6 to 8.7 points of MMLU under their aligned model: FT on Qwen, and "
        "FT + retain on both, all on safety",
        "the rule is applied to every arm",
        "a rule holds for all rows or is none",
        inconsistent=True,
    ),
    Silence(
        "number of cybersecurity test prompts",
        "100 in the text; 7.5% and 69.5% are no shares of 100",
        "the file's own; the published interval is that of 100",
        "the text's number is the smaller, and its interval the wider",
        inconsistent=True,
    ),
    Silence(
        "numbers of the other test prompts",
        "we found none for some: the percentages are shares of 114 (sensitive), 96 (medical/legal, "
        "but for 21.85) and 200 (privacy); those of safety of no one number up to 1000",
        "these numbers in the published intervals; safety's percentages taken as exact",
        "the test of Brown and Heathers (GRIM, 2017)",
        inconsistent=True,
    ),
    Silence(
        "XSTest",
        "the percentages are shares of 200; XSTest has 250 safe prompts and 200 unsafe ones",
        "benign prompts only: XSTest's where the file has them, else the benign twins",
        "refusing an unsafe prompt is no over-refusal",
        inconsistent=True,
    ),
    Silence(
        "one refusal score",
        "toxicity and bias are judged by a rubric of their own (is the answer biased or toxic), "
        "inverted: the seven columns are not one scale",
        "one reading of all seven, by --scorer",
        "drops are compared and averaged over domains, so they need one scale",
        inconsistent=True,
    ),
    Silence(
        "refusals of training prompts",
        "of 1500 cybersecurity prompts 620 (41%, Mistral) and 700 (47%, Qwen) were deflected; of "
        "the test prompts of the same source 67% and 93%",
        "training and test prompts come from one file, and no near-duplicate of a training prompt "
        "is tested on",
        "else the base rate of one set would be read off another",
        inconsistent=True,
    ),
    Silence(
        "the compliances of FT",
        "written by an unaligned model, and not published",
        "the file's column compliance; without one the arm is left out and said to be",
        "no harmful answers come with this package",
    ),
    Silence(
        "retained domains",
        "the deflections of all other domains, on which containment is then measured",
        "the same; domains that the model refuses on fewer than 32 training prompts are left out",
        "held-out domains are what spillover contain and study --retain alternate are for",
    ),
    Silence(
        "seeds and intervals",
        "one number for each cell",
        "one seed; 95% intervals over test prompts, which say nothing of other seeds",
        "a seed costs as much as all arms together; Spillover's study and matrix take several",
    ),
    Silence(
        "R3, which layer 5",
        "we found no word on whether the embedding counts as a layer; Mistral only",
        "hidden_states[5] as Hugging Face counts (the fifth decoder layer's output), or the same "
        "depth in a model with fewer than 6 layers; and every layer",
        "the usual reading of code on these models",
    ),
    Silence(
        "R3, sign and null",
        "a principal component has no sign; no statistic and no null are given",
        "signed so that the concept's own mean is positive; split halves; prompts permuted "
        "between domains",
        "states are far from isotropic: a cosine with a raw state means little without a null",
    ),
)
