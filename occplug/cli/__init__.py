"""The console command `occplug NAME ...`; each `tools/NAME.py` calls the same function.

Exit status: 0 done, 2 a user's mistake (one message on stderr, no traceback), 1 anything else.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable

from occplug.errors import ConfigError, OccplugError

__all__ = ["COMMANDS", "main", "run"]

# name -> (module in this package, one line of help); modules are imported only when their command runs
COMMANDS = {
    "train": ("train", "train and evaluate the model of a config file"),
    "test": ("test", "evaluate a checkpoint"),
    "embed": ("embed", "embeddings of your images, in a file"),
    "search": ("search", "the images of a gallery nearest to yours"),
    "gallery": ("gallery", "build, extend, shrink and describe a gallery"),
    "export": ("export", "a trained model as one ONNX or TorchScript file"),
    "calibrate": ("calibrate", "what the distances of trained weights mean"),
    "cluster": ("cluster", "who is the same over many of your images"),
    "attribute-report": ("attribute_report", "what the learnt prompt tokens of each identity say"),
    "synthocc": ("synthocc", "render the embedded benchmark SynthOcc"),
    "build-occluders": ("build_occluders", "make an occluder library for rwoa and oia"),
    "show": ("show", "a page about runs with every query's ranking; or rankings as a figure"),
    "robustness": ("robustness", "mAP and Rank-1 of models as their queries are covered more and more"),
    "show-augment": ("show_augment", "draw augmented images beside their originals"),
    "make-masks": ("make_masks", "make part masks of images with pose and mask models"),
    "doctor": ("doctor", "what is installed, which data sets are there, what is wrong with their images"),
    "compare": ("compare", "train several configs over several seeds, or take finished runs, and print one table"),
    "sweep": ("sweep", "train a config with every combination of some keys' values, and print one table"),
    "ablate": ("ablate", "train the rows of one ablation table over several seeds"),
    "tables": ("make_tables", "make the tables of documents again from kept runs, and say which runs are missing"),
    "keep": ("keep", "collect kept runs of folders and files in one file"),
    "zoo": ("zoo", "list, fetch, verify and fill the model zoo"),
    "convert": ("convert", "read an official checkpoint and write it as ours"),
    "show-attention": ("show_attention", "draw where a method's parts look"),
    "show-heads": ("show_heads", "draw how alike attention heads and patches are"),
    "show-occluders": ("show_occluders", "draw an occluder library"),
    "show-mixing": ("show_mixing", "draw saliency, transferred patches and prototype masks"),
    "gradients": ("gradients", "say what each term of a loss does: gradients, logits, images it touches"),
    "mask-report": ("mask_report", "compare prototype masks and saliency with what SynthOcc knows to be visible"),
}


# commands that torchrun may start in several processes
IN_SEVERAL_PROCESSES = ("train", "test")


def usage() -> str:
    """The command's help text."""
    lines = [f"  {name:18s}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: occplug COMMAND [options]   (occplug COMMAND --help for its options)", "", *lines])


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"occplug: there is no command {name!r}\n{usage()}", file=sys.stderr)
        return 2
    return run(name, importlib.import_module(f"occplug.cli.{COMMANDS[name][0]}").main, rest)


def run(name: str, command: Callable[[list[str]], None], argv: list[str]) -> int:
    """Call `command(argv)`; returns the exit status, with one message for a user's mistake."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names need not be text that the terminal can show
            stream.reconfigure(errors="backslashreplace")
    try:
        _check_processes(name)
        command(argv)
    except OccplugError as error:
        from occplug.utils.imagefile import original_message

        print(f"occplug {name}: {original_message(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"occplug {name}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # torch may say it again while the first word of it is on its way here
        if "DataLoader worker" not in str(error):
            raise
        print(f"occplug {name}: a process that reads images has ended; lower data.workers ({error})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is to end; another Ctrl-C would only show where
        print(f"\noccplug {name}: interrupted", file=sys.stderr)
        return 1
    return 0


def _check_processes(name: str) -> None:
    """Raise ConfigError if torchrun has started a command in several processes that works in one."""
    given = os.environ.get("WORLD_SIZE", "1")
    processes = int(given) if given.isdecimal() else 1
    if processes > 1 and name not in IN_SEVERAL_PROCESSES:
        raise ConfigError(
            f"{name} works in one process, and torchrun has started {processes} (WORLD_SIZE); each would do the same "
            "and write over the others' files: start it without torchrun"
        )


def entry_point() -> None:
    """What the installed `occplug` script calls."""
    sys.exit(main())
