"""Speed, memory and equality on a GPU, in under ten minutes; see `benchmarks/gpu.py` and docs/speed.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu import main
from occplug.cli import run

if __name__ == "__main__":
    sys.exit(run("gpu_check", main, sys.argv[1:]))
