import analyses as analyses
import interp as interp
import unlearning as unlearning
from analyses.contain import contain as contain
from analyses.deflect import deflect as deflect
from analyses.evaluate import evaluate as evaluate
from analyses.explain import explain as explain
from analyses.matrix import matrix as matrix
from analyses.predict import predict as predict
from analyses.predict import tournament as tournament
from analyses.report import report as report
from analyses.reproduce import reproduce as reproduce
from analyses.runs import Run as Run
from analyses.study import compare as compare
from analyses.study import demo as demo
from analyses.study import study as study
from analyses.workbench import TrainingRecord as TrainingRecord
from analyses.workbench import UnlearnedModel as UnlearnedModel
from analyses.workbench import collect as collect
from analyses.workbench import example_run as example_run
from analyses.workbench import generate as generate
from analyses.workbench import load as load
from analyses.workbench import patch as patch
from analyses.workbench import prompts as prompts
from analyses.workbench import refusal_log_odds as refusal_log_odds
from analyses.workbench import score as score
from analyses.workbench import state_map as state_map
from analyses.workbench import stitch as stitch
from analyses.workbench import unlearn as unlearn
from interp.directions import ContrastSubspace as ContrastSubspace
from interp.directions import DirectionSet as DirectionSet
from interp.directions import FirstPrincipalComponent as FirstPrincipalComponent
from interp.directions import Leace as Leace
from interp.directions import LogisticProbe as LogisticProbe
from interp.directions import MeanDifference as MeanDifference
from interp.directions import PairedPrincipalComponent as PairedPrincipalComponent
from interp.directions import WhitenedMeanDifference as WhitenedMeanDifference
from interp.errors import InputError as InputError
from interp.errors import MachineError as MachineError
from interp.errors import ModelError as ModelError
from interp.errors import SpilloverError as SpilloverError
from interp.errors import TrainingError as TrainingError
from interp.interventions import ablate as ablate
from interp.interventions import add as add
from interp.interventions import orthogonalise as orthogonalise
from interp.interventions import set_component as set_component
from interp.model import LanguageModel as LanguageModel
from interp.similarity import cosine_map as cosine_map
from interp.similarity import rotation as rotation
from unlearning.data import DOMAINS as DOMAINS

__version__: str
