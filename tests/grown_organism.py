"""The packaged model organism grown to a larger model that says the same: for costs of other sizes.

Its feed-forward parts get more units without output, and it gets more layers that change nothing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from unlearning.organism import shipped


def save_grown(folder: Path, *, layers: int = 12, units: int = 8192, seed: int = 0) -> Path:
    """Write it into ``folder``: 39 M parameters in the default size, and the same logits."""
    small = AutoModelForCausalLM.from_pretrained(shipped(), dtype=torch.float32)
    config = AutoConfig.from_pretrained(shipped())
    config.num_hidden_layers, config.intermediate_size = layers, units
    config.layer_types = ["full_attention"] * layers
    torch.manual_seed(seed)
    large = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    known = small.state_dict()
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            if name in known:
                parameter[tuple(slice(0, n) for n in known[name].shape)] = known[name]
    shutil.copytree(
        shipped(), folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    large.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    save_grown(Path(sys.argv[1]))
