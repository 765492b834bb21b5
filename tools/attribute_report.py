"""The same as `occplug attribute-report`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["attribute-report", *sys.argv[1:]]))
