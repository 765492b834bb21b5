"""The same as `occplug keep`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["keep", *sys.argv[1:]]))
