"""The same as `occplug tables`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["tables", *sys.argv[1:]]))
