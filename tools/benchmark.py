"""The same as `occplug benchmark`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
