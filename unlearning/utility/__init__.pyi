from .divergence import answer_logits as answer_logits
from .divergence import kl_table as kl_table
from .divergence import text_likelihood as text_likelihood
from .perplexity import own_token_nll as own_token_nll
from .perplexity import response_nll as response_nll
from .perplexity import response_token_nll as response_token_nll
from .tasks import require_harness as require_harness
from .tasks import run_tasks as run_tasks
