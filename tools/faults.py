"""Fault injection; see `benchmarks/faults/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.faults.command import main
from occplug.cli import run

if __name__ == "__main__":
    sys.exit(run("faults", main, sys.argv[1:]))
