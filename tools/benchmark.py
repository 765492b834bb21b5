"""Speed and memory as ratios; see `benchmarks/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import main
from occplug.cli import run

if __name__ == "__main__":
    sys.exit(run("benchmark", main, sys.argv[1:]))
