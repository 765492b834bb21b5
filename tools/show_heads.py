"""The same as `occplug show-heads`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["show-heads", *sys.argv[1:]]))
