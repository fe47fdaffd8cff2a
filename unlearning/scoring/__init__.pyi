from .agreement import COUNTED as COUNTED
from .agreement import MEASURES as MEASURES
from .agreement import Interval as Interval
from .agreement import between as between
from .agreement import by_group as by_group
from .agreement import class_agreement as class_agreement
from .agreement import disagreeing as disagreeing
from .agreement import each_way as each_way
from .agreement import fleiss_kappa as fleiss_kappa
from .agreement import kappa_gain as kappa_gain
from .agreement import scorer_agreement as scorer_agreement
from .classes import CLASSES as CLASSES
from .classes import COARSE as COARSE
from .classes import FINE_CLASSES as FINE_CLASSES
from .classes import FineScorer as FineScorer
from .classes import Scorer as Scorer
from .classes import fine_classes as fine_classes
from .classes import refused as refused
from .classes import spoken as spoken
from .classifier import REFUSAL_THRESHOLD as REFUSAL_THRESHOLD
from .classifier import Classifier as Classifier
from .classifier import as_learned as as_learned
from .classifier import built_in as built_in
from .classifier import fit as fit
from .coherence import is_gibberish as is_gibberish
from .coherence import repetition as repetition
from .evaluation import Evaluation as Evaluation
from .evaluation import coherence_of as coherence_of
from .evaluation import coherent_classes as coherent_classes
from .fluency import Fluency as Fluency
from .fluency import WithFluency as WithFluency
from .fluency import at_other_prompts as at_other_prompts
from .fluency import measure_fluency as measure_fluency
from .judge import Judge as Judge
from .language import is_english as is_english
from .language import language_note as language_note
from .language import language_of as language_of
from .local_judge import LocalJudge as LocalJudge
from .panel import Panel as Panel
from .panel import readers_of as readers_of
from .panel_notes import panel_lines as panel_lines
from .panel_notes import view_of_panel as view_of_panel
from .phrases import Phrases as Phrases
from .probe import Probe as Probe
from .reader import READER_DEPTH as READER_DEPTH
from .reader import Reader as Reader
from .reader import default_reader as default_reader
from .reader import default_wheel as default_wheel
from .reader import readers_are_off as readers_are_off
from .reader import workload_of_reading as workload_of_reading
from .reading import ModelScorer as ModelScorer
from .reading import ResponseReader as ResponseReader
from .reading import Workload as Workload
from .reading import verdicts as verdicts
from .reading import workload_of as workload_of
from .registry import SCORERS as SCORERS
from .registry import find_scorer as find_scorer
from .registry import scorer as scorer
from .rubrics import BIASED_OR_TOXIC as BIASED_OR_TOXIC
from .rubrics import HARMFUL as HARMFUL
from .rubrics import REFUSAL as REFUSAL
from .rubrics import RUBRICS as RUBRICS
from .texts import RefusalText as RefusalText
from .texts import refusal_texts as refusal_texts

__all__ = [
    "BIASED_OR_TOXIC",
    "CLASSES",
    "COARSE",
    "COUNTED",
    "FINE_CLASSES",
    "HARMFUL",
    "MEASURES",
    "READER_DEPTH",
    "REFUSAL",
    "REFUSAL_THRESHOLD",
    "RUBRICS",
    "SCORERS",
    "Classifier",
    "Evaluation",
    "FineScorer",
    "Fluency",
    "Interval",
    "Judge",
    "LocalJudge",
    "ModelScorer",
    "Panel",
    "Phrases",
    "Probe",
    "Reader",
    "RefusalText",
    "ResponseReader",
    "Scorer",
    "WithFluency",
    "Workload",
    "as_learned",
    "at_other_prompts",
    "between",
    "built_in",
    "by_group",
    "class_agreement",
    "coherence_of",
    "coherent_classes",
    "default_reader",
    "default_wheel",
    "disagreeing",
    "each_way",
    "find_scorer",
    "fine_classes",
    "fit",
    "fleiss_kappa",
    "is_english",
    "is_gibberish",
    "kappa_gain",
    "language_note",
    "language_of",
    "measure_fluency",
    "panel_lines",
    "readers_are_off",
    "readers_of",
    "refusal_texts",
    "refused",
    "repetition",
    "scorer",
    "scorer_agreement",
    "spoken",
    "verdicts",
    "view_of_panel",
    "workload_of",
    "workload_of_reading",
]
