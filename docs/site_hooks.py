"""What the site adds to its pages: the model zoo's tables; links to files of the repository become their names."""

import re
from pathlib import Path

LINK = re.compile(r"\[([^\]]+)\]\((?:configs|occplug)/[\w./]+\)")


def on_page_markdown(markdown: str, page, config, **unused) -> str:
    """The text of a page, before it is made HTML."""
    if page.file.src_uri != "zoo.md":
        return markdown
    tables = Path(config.config_file_path).with_name("model_zoo.md").read_text(encoding="utf-8")
    return markdown + LINK.sub(r"\1", tables.removeprefix("# Model zoo\n"))
