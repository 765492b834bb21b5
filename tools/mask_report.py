"""The same as `occplug mask-report`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["mask-report", *sys.argv[1:]]))
