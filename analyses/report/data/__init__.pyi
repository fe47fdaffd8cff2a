from .embedding import as_json_text as as_json_text
from .prompt_table import merged_prompts as merged_prompts
from .whole import explorable as explorable
