"""The same as `occplug show-attention`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["show-attention", *sys.argv[1:]]))
