"""The same as `occplug ablate`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["ablate", *sys.argv[1:]]))
