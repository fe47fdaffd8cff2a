"""Several processes end training at the same step."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl


class StopTogether(TrainerCallback):
    """Ends training in every process when a callback of one of them ends it. Give it last.

    That process may have scored for hours, longer than processes wait for one another by default.
    """

    def __init__(self) -> None:
        self.group: Any = None

    def on_train_begin(self, args: Any, *_arguments: Any, **_keywords: Any) -> None:
        """Every process makes the group, over the CPU."""
        if args.world_size > 1:
            self.group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))

    def on_step_end(
        self, args: Any, state: Any, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Share whether one of them ends."""
        if self.group is not None:
            flag = torch.tensor(int(control.should_training_stop))
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX, group=self.group)
            control.should_training_stop = bool(flag.item())
        return control
