"""The same as `occplug show-augment`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["show-augment", *sys.argv[1:]]))
