"""Tables are put between their marks, and nothing else changes."""

import pytest

from occplug.errors import ConfigError
from occplug.experiments.markdown import replace_marked


def test_only_the_marked_lines_change(tmp_path):
    file = tmp_path / "a.md"
    file.write_text("x\n<!-- one -->\nold\n<!-- end -->\ny\n<!-- two -->\nkept\n<!-- end -->\n")
    replace_marked(file, "one", "new")
    assert file.read_text() == "x\n<!-- one -->\nnew\n<!-- end -->\ny\n<!-- two -->\nkept\n<!-- end -->\n"


@pytest.mark.parametrize("content", ["", "no marks", "<!-- one --> but no end"])
def test_missing_marks_are_named(tmp_path, content):
    file = tmp_path / "a.md"
    file.write_text(content)
    with pytest.raises(ConfigError, match="has no lines '<!-- one -->' and '<!-- end -->'"):
        replace_marked(file, "one", "new")
    assert file.read_text() == content
