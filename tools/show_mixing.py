"""The same as `occplug show-mixing`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["show-mixing", *sys.argv[1:]]))
