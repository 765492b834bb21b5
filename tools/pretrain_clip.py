"""The same as `occplug pretrain-clip`."""

import sys

from occplug.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain-clip", *sys.argv[1:]]))
