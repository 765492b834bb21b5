"""The same as `occplug train`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
