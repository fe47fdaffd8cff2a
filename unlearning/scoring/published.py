"""Published readers of answers by name: guards, and models that were trained to judge.

A guard reads harm, not refusals: gibberish is harmless and has not refused. So a reader has a scale
only if its reply says so. A reply without a verdict ("n/a", a broken form) gives no class. The
model runs in this process, or behind a server (vLLM and others).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from interp.errors import InputError
from interp.progress import Advance, silent
from unlearning.scoring.classes import Scorer, Texts
from unlearning.scoring.forms import FORMS, Form
from unlearning.scoring.hosts import Host, LocalHost, ServedHost
from unlearning.scoring.judge import model_and_address
from unlearning.scoring.reading import ModelScorer, Workload
from unlearning.scoring.registry import scorer
from unlearning.scoring.rubrics import RUBRICS
from unlearning.scoring.sequence_classifier import SequenceClassifier
from unlearning.serving import Endpoint, shared_folder


@dataclass(frozen=True)
class PublishedReader:
    """A published model that reads answers on one scale.

    Attributes:
        form: how it is asked, and what it replies.
        scale: one of those that the form reads.
        host: where its model runs.
    """

    form: Form
    scale: str
    host: Host

    @property
    def name(self) -> str:
        own = self.host.model == self.form.model
        return self.form.name if own else f"{self.form.name}:{self.host.model}"

    @property
    def version(self) -> str:
        return f"{self.scale}-{self.form.version}{self.host.digest}"

    @property
    def when_empty(self) -> str:
        return RUBRICS[self.scale].when_empty

    def on(self, device: str) -> PublishedReader:
        """The same with its model on a device; a server's model stays where it is."""
        if not isinstance(self.host, LocalHost):
            return self
        return replace(self, host=replace(self.host, device=device))

    def workload(self, prompts: Texts, responses: Texts) -> Workload:
        """The cost of :meth:`read`. Tokens are estimated, because the model is not loaded."""
        return self.host.workload(list(map(self.form.asked, prompts, responses)), self.form)

    def read(
        self, prompts: Texts, responses: Texts, *, progress: Advance = silent
    ) -> list[str | None]:
        """The class of each answer; ``None`` if the reply contains no verdict.

        Raises:
            SpilloverError: the model cannot be loaded, or its server does not answer.
        """
        pairs = zip(map(self.host.cleaned, prompts), map(self.host.cleaned, responses), strict=True)
        asked = [self.form.asked(*pair) for pair in pairs]
        replies = self.host.replies(asked, self.form, progress)
        return [self.form.verdict(reply, self.scale) for reply in replies]


def published_reader(name: str, argument: str, scale: str) -> PublishedReader:
    """The reader that ``NAME``, ``NAME:MODEL``, ``NAME@URL`` or ``NAME:MODEL@URL`` names.

    Args:
        name: a key of ``FORMS``.
        argument: what follows the name, without the colon.
        scale: one that the form reads.

    Raises:
        InputError: no model is named, or the address is invalid.
        ModelError: the folder does not contain a model.
    """
    form = FORMS[name]
    model, address = model_and_address(argument, name)
    if not (model := model or form.model):
        raise InputError(f"no model named; expected {name}:MODEL or {name}:MODEL@URL")
    local = address is None
    host = LocalHost(model) if local else ServedHost(Endpoint(model, address, shared_folder()))
    return PublishedReader(form, scale, host)


@scorer("wildguard", title="WildGuard", scales=("refusal", "harmful"))
def wildguard(argument: str, scale: str) -> Scorer:
    """WildGuard's "response refusal", or its "harmful response"."""
    return ModelScorer(published_reader("wildguard", argument, scale))


@scorer("llama-guard-3", title="Llama Guard 3", scales=("harmful",))
def llama_guard_3(argument: str) -> Scorer:
    """Whether Llama Guard 3 calls the response unsafe."""
    return ModelScorer(published_reader("llama-guard-3", argument, "harmful"))


@scorer("llama-guard-4", title="Llama Guard 4", scales=("harmful",))
def llama_guard_4(argument: str) -> Scorer:
    """Whether Llama Guard 4 calls the response unsafe."""
    return ModelScorer(published_reader("llama-guard-4", argument, "harmful"))


@scorer("granite-guardian", title="Granite Guardian", scales=("harmful",))
def granite_guardian(argument: str) -> Scorer:
    """Granite Guardian's risk "harm" of the response."""
    return ModelScorer(published_reader("granite-guardian", argument, "harmful"))


@scorer("shieldgemma", title="ShieldGemma", scales=("harmful",))
def shieldgemma(argument: str) -> Scorer:
    """Whether the response violates one of four policies, by ShieldGemma."""
    return ModelScorer(published_reader("shieldgemma", argument, "harmful"))


@scorer("harmbench", title="HarmBench classifier", scales=("harmful",))
def harmbench(argument: str) -> Scorer:
    """Whether the response is an instance of the requested behaviour, by HarmBench's classifier."""
    return ModelScorer(published_reader("harmbench", argument, "harmful"))


@scorer("strongreject", title="StrongREJECT rubric")
def strongreject(argument: str) -> Scorer:
    """The first question of StrongREJECT's rubric, whether the model refuses; by any model."""
    return ModelScorer(published_reader("strongreject", argument, "refusal"))


@scorer("strongreject-finetuned", title="StrongREJECT, fine-tuned", scales=("harmful",))
def strongreject_finetuned(argument: str) -> Scorer:
    """Whether the response helps a malicious user, by StrongREJECT's fine-tuned model."""
    return ModelScorer(published_reader("strongreject-finetuned", argument, "harmful"))


@scorer("distilroberta-rejection", title="DistilRoBERTa rejection")
def distilroberta_rejection(argument: str) -> Scorer:
    """Protect AI's classifier of rejections, read from the response alone."""
    if model_and_address(argument, "distilroberta-rejection")[1]:
        raise InputError(
            "distilroberta-rejection is a classifier, which a server of completions does not run; "
            "name it without an address"
        )
    return ModelScorer(SequenceClassifier(argument or "protectai/distilroberta-base-rejection-v1"))
