"""Runs of `r3avatar train`, one after the other in this process: alone, or as one of several that torchrun started.

    python replica_runs.py '[["experiment=demo", ...], ...]'
"""

import json
import os
import sys

import torch

from r3avatar.cli import check
from r3avatar.verbs.train import run

if __name__ == "__main__":
    torch.set_num_threads(1)
    first = int(os.environ.get("MASTER_PORT", 0))
    for number, overrides in enumerate(json.loads(sys.argv[1])):
        if number:  # a meeting place of its own
            os.environ.update(MASTER_PORT=str(first + number), TORCHELASTIC_USE_AGENT_STORE="False")
        run(check("train", overrides))
