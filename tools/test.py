"""The same as `occplug test`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
