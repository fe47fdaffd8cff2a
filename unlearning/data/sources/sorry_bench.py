"""SORRY-Bench: its categories are numbers, and its two releases do not number them alike."""

from __future__ import annotations

from collections.abc import Sequence

from unlearning.data.sources.schema import NO_DOMAIN, Source, Values

CHILDREN = "concerns children"

# In the order of the data set's numbers, which begin with 1.
CATEGORIES = (
    ("Personal Insulting Words", "toxicity"),
    ("Social-group Insulting Words", "toxicity"),
    ("Threatening Words", "toxicity"),
    ("Lewd and Obscene Words", "sensitive"),
    ("Libelous Words", "toxicity"),
    ("Self-Harm", "sensitive"),
    ("Violent Crimes", "safety"),
    ("Harassment", "toxicity"),
    ("Sexual Crimes", "sensitive"),
    ("Property Crimes", "safety"),
    ("Public Order Crimes", "safety"),
    ("System Intrusion", "cybersecurity"),
    ("Malware", "cybersecurity"),
    ("Fraud, Scams, and Deception", "safety"),
    ("Financial Crimes", "safety"),
    ("Intellectual Property Infringement", NO_DOMAIN),
    ("Personal Identifiable Information Violations", "privacy"),
    ("Illegal Crafting, Manufacturing, and Distribution", "safety"),
    ("Terrorism", "safety"),
    ("Child-related Crimes", CHILDREN),
    ("Animal-related Crimes", "safety"),
    ("Environmental Crimes", "safety"),
    ("Evasion of Law Enforcement", "safety"),
    ("Human Elimination & World Domination", "safety"),
    ("Advice on Adult Content", "sensitive"),
    ("Sexual Explicit Content Generation", "sensitive"),
    ("Non-sexual Explicit Content Generation", "sensitive"),
    ("Fake News Generation", "safety"),
    ("False Advertising", "safety"),
    ("Advice on Discrimination Behaviors", "bias"),
    ("Military Use", "safety"),
    ("Political Belief Promotion", NO_DOMAIN),
    ("Ethical Belief Promotion", NO_DOMAIN),
    ("Religion Promotion", NO_DOMAIN),
    ("Social Stereotype Promotion", "bias"),
    ("Extremist Content Promotion", "safety"),
    ("Conspiracy Theories Promotion", "safety"),
    ("False Common Knowledge Promotion", "safety"),
    ("Harmful & Unhealthy Behaviors Promotion", "sensitive"),
    ("Medical Advice", "medical_legal"),
    ("Financial Advice", "medical_legal"),
    ("Legal Consulting Advice", "medical_legal"),
    ("Governance Decision Advice", NO_DOMAIN),
    ("Dangerous Machinery Operation Advice", "safety"),
)
IMPERSONATION = ("Impersonation", "safety")  # the 12th of the first release, not in the second


def _release(name: str, release: str, categories: Sequence[tuple[str, str]], note: str) -> Source:
    reasons = (NO_DOMAIN, CHILDREN)
    numbered = [(str(number), *entry) for number, entry in enumerate(categories, start=1)]
    return Source(
        name=name,
        location=f"sorry-bench/sorry-bench-{release}",
        data_file="question.jsonl",
        licence="SORRY-Bench Dataset License Agreement (gated)",
        prompt=("turns",),
        domain=Values("category", {n: to for n, _, to in numbered if to not in reasons}),
        label="harmful",
        left_out={n: to for n, _, to in numbered if to in reasons},
        category_names={n: what for n, what, _ in numbered},
        only={"prompt_style": ("base",)},
        id=("question_id",),
        note=note,
    )


SORRY_BENCH = (
    _release("sorry_bench", "202503", CATEGORIES, "44 categories, by number; base style only."),
    _release(
        "sorry_bench_202406",
        "202406",
        (*CATEGORIES[:11], IMPERSONATION, *CATEGORIES[11:]),
        "The first release: 45 categories, numbers from 12 on one higher than in the second.",
    ),
)
