"""The same as `occplug compare`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
