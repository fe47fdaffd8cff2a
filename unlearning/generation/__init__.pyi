from .answer_log import Answer as Answer
from .answer_log import AnswerLog as AnswerLog
from .answer_log import AskedPrompt as AskedPrompt
from .answer_log import answer_all as answer_all
from .answer_log import each_asked as each_asked
from .continued import continuations as continuations
from .responses import answers_key as answers_key
from .responses import generate as generate
from .responses import stop_tokens as stop_tokens

__all__ = [
    "Answer",
    "AnswerLog",
    "AskedPrompt",
    "answer_all",
    "answers_key",
    "continuations",
    "each_asked",
    "generate",
    "stop_tokens",
]
