"""What a user can get wrong, one class per kind.

The command line prints the message of an :class:`OccplugError` alone, without a traceback, and exits with status 2;
so a message says what is wrong, where (file or key), and what to do about it.
"""


class OccplugError(Exception):
    """A user's mistake: its message is all the user needs."""


class ConfigError(OccplugError, ValueError):
    """A wrong key, value or combination in a config file or on the command line."""


class DataError(OccplugError):
    """A data set or an image that is missing, damaged, or not laid out as expected."""


class CheckpointError(OccplugError):
    """A weight file that is missing, damaged, of another model, or unsafe to read."""


class OutputError(OccplugError):
    """A file or folder that cannot be written: no space left, no permission, something in its place."""


class TrainingError(OccplugError):
    """Training cannot go on: not-a-number losses, parameters without a gradient."""


def first_line(error: BaseException) -> str:
    """The first line of the message of `error`, or the name of its kind where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
