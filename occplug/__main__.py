"""`python -m occplug` is the console command."""

from occplug.cli import entry_point

if __name__ == "__main__":
    entry_point()
