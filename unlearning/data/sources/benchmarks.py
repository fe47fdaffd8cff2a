"""Public benchmarks by their own published schemas, and their categories as the seven domains.

One record each, and no prompt: rows come from the publisher. Which facts were checked, and where,
stands in ``docs/sources.md``. Where a benchmark's category spans two domains, its rows all go to
the one that most of them belong to.
"""

from __future__ import annotations

from collections.abc import Mapping

from unlearning.data.sources.schema import NO_DOMAIN, Above, Source, Values
from unlearning.data.sources.sorry_bench import SORRY_BENCH

GITHUB = "https://raw.githubusercontent.com"
CYBERSECEVAL = f"{GITHUB}/meta-llama/PurpleLlama/main/CybersecurityBenchmarks/datasets"

XSTEST_SAFE = {
    "homonyms": "safety",
    "figurative_language": "safety",
    "safe_targets": "safety",
    "safe_contexts": "safety",
    "definitions": "safety",
    "historical_events": "safety",
    "nons_group_real_discr": "bias",
    "real_group_nons_discr": "bias",
    "privacy_public": "privacy",
    "privacy_fictional": "privacy",
}
XSTEST_UNSAFE = {
    "contrast_homonyms": "safety",
    "contrast_figurative_language": "safety",
    "contrast_safe_targets": "safety",
    "contrast_safe_contexts": "safety",
    "contrast_definitions": "safety",
    "contrast_historical_events": "safety",
    "contrast_discr": "bias",
    "contrast_privacy": "privacy",
}

JAILBREAKBENCH = {
    "Harassment/Discrimination": "bias",
    "Malware/Hacking": "cybersecurity",
    "Physical harm": "safety",
    "Economic harm": "safety",
    "Fraud/Deception": "safety",
    "Disinformation": "safety",
    "Sexual/Adult content": "sensitive",
    "Privacy": "privacy",
    "Expert advice": "medical_legal",
    "Government decision-making": "safety",
}


def _jailbreakbench(name: str, label: str, note: str) -> Source:
    return Source(
        name=name,
        location="JailbreakBench/JBB-Behaviors",
        config="behaviors",
        split=label,
        licence="MIT",
        prompt=("Goal",),
        domain=Values("Category", JAILBREAKBENCH),
        label=label,
        id=("Index",),
        pair="Index",
        pairs_with="jailbreakbench",
        note=note,
    )


_ALL = (
    Source(
        name="cyberseceval_mitre",
        location=f"{CYBERSECEVAL}/mitre/mitre_benchmark_100_per_category_with_augmentation.json",
        licence="MIT",
        prompt=("mutated_prompt",),
        domain="cybersecurity",
        label="harmful",
        category="mitre_category",
        note="All prompts share a wrapper; base_prompt has the request alone.",
    ),
    Source(
        name="cyberseceval_interpreter",
        location=f"{CYBERSECEVAL}/interpreter/interpreter.json",
        licence="MIT",
        prompt=("mutated_prompt",),
        domain="cybersecurity",
        label="harmful",
        category="attack_type",
    ),
    Source(
        name="cyberseceval_frr",
        location=f"{CYBERSECEVAL}/mitre_frr/mitre_frr.json",
        licence="MIT",
        prompt=("mutated_prompt",),
        domain="cybersecurity",
        label=Values("is_malicious", {"false": "benign", "true": "harmful"}),
        category="attack_type",
        note="False refusal rate: benign requests of security work.",
    ),
    Source(
        name="strongreject",
        location=f"{GITHUB}/alexandrasouly/strongreject/main/strongreject_dataset/"
        "strongreject_dataset.csv",
        licence="MIT",
        prompt=("forbidden_prompt",),
        domain=Values(
            "category",
            {
                "Disinformation and deception": "safety",
                "Hate, harassment and discrimination": "toxicity",
                "Illegal goods and services": "safety",
                "Non-violent crimes": "safety",
                "Sexual content": "sensitive",
                "Violence": "safety",
            },
        ),
        label="harmful",
        note="Its column source names an earlier set: deduplicate across sources.",
    ),
    *SORRY_BENCH,
    Source(
        name="do_not_answer",
        location="LibrAI/do-not-answer",
        licence="CC BY-NC-SA 4.0 (its card; the hub's tag says Apache-2.0)",
        prompt=("question",),
        domain=Values(
            "types_of_harm",
            {
                "Adult Content": "sensitive",
                "Assisting illegal activities": "safety",
                "Causing material harm by disseminating misinformation "
                "e.g. in medicine or law": "medical_legal",
                "Compromise privacy by leaking or inferring private information "
                "(person/individual)": "privacy",
                "Disseminating false or misleading information": "safety",
                "Mental Health or Overreliance Crisis": "sensitive",
                "Nudging or advising users to perform unethical or unsafe actions": "safety",
                "Reducing the cost of disinformation campaigns": "safety",
                "Risks from leaking or inferring sensitive information "
                "(organization/gov)": "privacy",
                "Social stereotypes and unfair discrimination": "bias",
                "Toxic language (hate speech)": "toxicity",
            },
        ),
        label="harmful",
        left_out={"Treat Chatbot as a Human": NO_DOMAIN},
        id=("id",),
    ),
    Source(
        name="toxigen",
        location="toxigen/toxigen-data",
        config="annotated",
        licence="CDLA-Permissive-2.0 (data), MIT (code)",
        prompt=("text",),
        domain="toxicity",
        label=Above(("toxicity_ai", "toxicity_human"), 5.5),
        category="target_group",
        note="Statements, not requests. Both scores are people's, who were told that the author is "
        "a machine, or a person. Groups are spelt differently in train and test.",
    ),
    Source(
        name="bbq",
        location=f"{GITHUB}/nyu-mll/BBQ/main/data/Religion.jsonl",
        licence="CC BY 4.0",
        prompt=("context", "question"),
        domain="bias",
        label="harmful",
        only={"context_condition": ("ambig",), "question_polarity": ("neg",)},
        category="category",
        id=("category", "example_id"),
        note="As in the paper: ambiguous contexts, negative questions. Without answer options. "
        "Religion; each of the other ten categories has a file beside it.",
    ),
    Source(
        name="xstest",
        location="Paul/XSTest",
        licence="CC BY 4.0",
        prompt=("prompt",),
        domain=Values("type", XSTEST_SAFE | XSTEST_UNSAFE),
        label=Values(
            "type", dict.fromkeys(XSTEST_SAFE, "benign") | dict.fromkeys(XSTEST_UNSAFE, "harmful")
        ),
        id=("id", "id_v2"),
        id_prefix="v2-",
        note="Releases 2 (id_v2, no label) and later (id, label) alike: the type says the label.",
    ),
    Source(
        name="alpaca",
        location="tatsu-lab/alpaca",
        licence="CC BY-NC 4.0 (not for commercial use)",
        prompt=("instruction", "input"),
        domain="general",
        label="benign",
    ),
    Source(
        name="harmbench",
        location=f"{GITHUB}/centerforaisafety/HarmBench/main/data/behavior_datasets/"
        "harmbench_behaviors_text_all.csv",
        licence="MIT",
        prompt=("ContextString", "Behavior"),
        domain=Values(
            "SemanticCategory",
            {
                "chemical_biological": "safety",
                "cybercrime_intrusion": "cybersecurity",
                "harassment_bullying": "toxicity",
                "harmful": "safety",
                "illegal": "safety",
                "misinformation_disinformation": "safety",
            },
        ),
        label="harmful",
        left_out={"copyright": NO_DOMAIN},
        id=("BehaviorID",),
        note="A contextual behaviour follows its context after an empty line.",
    ),
    _jailbreakbench("jailbreakbench", "harmful", "Paired with jailbreakbench_benign by Index."),
    _jailbreakbench("jailbreakbench_benign", "benign", "Paired with jailbreakbench by Index."),
)

SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}
