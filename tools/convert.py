"""The same as `occplug convert`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
