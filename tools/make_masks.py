"""The same as `occplug make-masks`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["make-masks", *sys.argv[1:]]))
