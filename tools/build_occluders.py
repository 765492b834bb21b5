"""The same as `occplug build-occluders`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["build-occluders", *sys.argv[1:]]))
