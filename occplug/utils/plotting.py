"""What all figures have in common: colours, and files of equal bytes for equal figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from occplug.errors import ConfigError
from occplug.utils.files import write_atomically

__all__ = ["COLORS", "STYLE", "check_ending", "save_figure"]

# of Okabe and Ito, told apart by all kinds of colour vision
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 8.0}  # text of plots stays text
ENDINGS: dict[str, dict[str, Any]] = {
    ".pdf": {"metadata": {"CreationDate": None}},
    ".svg": {"metadata": {"Date": None}},
    ".png": {"metadata": {"Software": None}},
    ".jpg": {"pil_kwargs": {"quality": 80, "optimize": True}},
}
# where a file says in words what it shows
WORDS = {
    ".pdf": ("metadata", "Subject"),
    ".svg": ("metadata", "Description"),
    ".png": ("metadata", "Description"),
    ".jpg": ("pil_kwargs", "comment"),
}


def check_ending(file: Path) -> None:
    """Raise ConfigError for a figure of another kind than .pdf, .svg, .png and .jpg."""
    if file.suffix not in ENDINGS:
        raise ConfigError(f"--figure {file}: a figure ends in {', '.join(ENDINGS)}")


def save_figure(figure: Figure, file: Path, words: str = "", **options: Any) -> Path:
    """Write `figure` to `file`, the same bytes every time.

    Args:
        words: what it shows, kept in the file for those who cannot see it.
        options: of matplotlib's `savefig`.

    Raises:
        ConfigError: an ending that `check_ending` refuses.
        OutputError: the file cannot be written.
    """
    check_ending(file)
    options = {"format": file.suffix[1:], **ENDINGS[file.suffix], **options}
    if words:
        section, entry = WORDS[file.suffix]
        options[section] = {**options[section], entry: words}
    with rc_context({"svg.hashsalt": "occplug"}):  # or names inside an SVG are drawn at random
        write_atomically(file, lambda temporary: figure.savefig(temporary, **options))
    return file
