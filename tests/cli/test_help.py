"""`--help` comes at once: no command imports torch, numpy or what is built on them before its arguments are parsed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from occplug.cli import COMMANDS

ROOT = Path(__file__).parents[2]
ASKED = """
import contextlib, io, json, sys
from occplug.cli import COMMANDS, main
found = {}
for command in COMMANDS:
    before, text = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([command, "--help"])
    heavy = ("torch", "torchreid", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "cv2", "PIL", "yaml")
    found[command] = [text.getvalue()[:6], [name for name in heavy if name in set(sys.modules) - before]]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helped():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_large_package(helped, command):
    assert helped[command] == ["usage:", []]


def test_sizes_are_those_of_the_benchmark():
    from occplug.cli.synthocc import SIZES
    from occplug.datasets.synthocc import SIZES as KNOWN

    assert set(SIZES) == set(KNOWN)


def test_training_speaks_before_it_imports():
    """The first words of a training come before seconds of imports."""
    code = "import sys; from occplug.cli import main; main(['train', '--config-file', 'none.yaml'])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("occplug ") and "train none.yaml: loading torch" in done.stdout.splitlines()[0]
    assert "none.yaml" in done.stderr
