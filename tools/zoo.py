"""The same as `occplug zoo`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["zoo", *sys.argv[1:]]))
