"""Train the embedded tiny CLIP from nothing; see `pretraining/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from occplug.cli import run
from pretraining.command import main

if __name__ == "__main__":
    sys.exit(run("pretrain-clip", main, sys.argv[1:]))
