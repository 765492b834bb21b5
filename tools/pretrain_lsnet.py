"""Train the small LSNet that goes with the tiny CLIP; see `pretraining/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from occplug.cli import run
from pretraining.lsnet_command import main

if __name__ == "__main__":
    sys.exit(run("pretrain-lsnet", main, sys.argv[1:]))
