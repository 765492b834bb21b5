"""The same as `occplug gradients`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["gradients", *sys.argv[1:]]))
