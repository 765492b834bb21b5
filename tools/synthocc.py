"""The same as `occplug synthocc`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["synthocc", *sys.argv[1:]]))
