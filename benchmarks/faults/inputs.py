"""Damaged inputs, in this process: configs, command lines, checkpoints, pictures."""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.faults.tally import Tally
from occplug.cli.arguments import config_parser, parse_config
from occplug.config import default_config, load_config, resolved_yaml
from occplug.config.places import shipped_configs
from occplug.embedding import Embedding
from occplug.engine import save_checkpoint
from occplug.errors import OccplugError
from occplug.torchreid_host import load_stock_checkpoint
from occplug.utils.imagefile import open_picture
from occplug.utils.tensors import read_tensors
from occplug.zoo.weights import read_test_weights, save_small

__all__ = ["NAMES", "checkpoints", "command_lines", "configs", "pictures"]

_VALUES = (
    "-1",
    "0",
    "1e309",
    ".nan",
    "null",
    "[]",
    "{}",
    "true",
    "x",
    "'",
    "[1, [2]]",
    "10**9",
    "&a [*a]",
    "~/x",
    "\0",
)


def _attempt(action: Callable[[], object], wanted: Callable[[object], bool] = lambda _: True) -> str | None:
    """None if `action` gives what is wanted or says what is wrong in an OccplugError; else what happened."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            found = action()
    except OccplugError as error:
        return None if str(error).strip() else "an error without a message"
    except SystemExit as error:  # argparse says how the command is used
        return None if error.code == 2 else f"exit {error.code}"
    except Exception as error:  # a fault that is looked for here
        return f"{type(error).__name__}: {str(error)[:100]}"
    return None if wanted(found) else "accepted, with other content"


def _damaged(data: bytes, draw: random.Random) -> bytes:
    """`data` with a few bytes changed, cut off, or with a piece doubled."""
    changed, kind = bytearray(data), draw.randrange(4)
    if kind == 0:
        return bytes(changed[: draw.randrange(len(changed))])
    if kind == 1:
        start = draw.randrange(len(changed))
        changed[start:start] = changed[start : start + draw.randint(1, 200)]
        return bytes(changed)
    for _ in range(draw.randint(1, 6)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def configs(count: int, seed: int) -> Tally:
    """Configs of ours with lines left out, moved, doubled, or with other values."""
    tally = Tally(NAMES[configs], "it is read, or refused with a message")
    files = sorted(shipped_configs().glob("*.yaml"))
    with tempfile.TemporaryDirectory() as name:
        for number in range(seed, seed + count):
            draw = random.Random(number)
            lines = resolved_yaml(load_config(draw.choice(files))).splitlines()
            for _ in range(draw.randint(1, 4)):
                place = draw.randrange(len(lines))
                kind = draw.randrange(5)
                if kind == 0:
                    del lines[place]
                elif kind == 1:
                    lines.insert(draw.randrange(len(lines)), lines[place])
                elif kind == 2:
                    lines[place] = f"{lines[place].partition(':')[0]}: {draw.choice(_VALUES)}"
                elif kind == 3:
                    lines[place] = " " * draw.randint(1, 3) + lines[place]
                else:
                    text = lines[place] or " "
                    cut = draw.randrange(len(text))
                    lines[place] = text[:cut] + chr(draw.choice((9, 34, 38, 42, 58, 123, 0xFFFE))) + text[cut + 1 :]
            file = Path(name) / "a.yaml"
            file.write_text("\n".join(lines), encoding="utf-8")
            tally.add(number, _attempt(lambda file=file: load_config(file)))
    return tally


def command_lines(count: int, seed: int) -> Tally:
    """Command lines with options left out, doubled, misspelt, and keys with other values."""
    tally = Tally(NAMES[command_lines], "it is parsed, or refused with a message")
    files = sorted(str(file) for file in shipped_configs().glob("*.yaml"))
    keys = [line.partition(":")[0].strip() for line in resolved_yaml(default_config()).splitlines()]
    for number in range(seed, seed + count):
        draw = random.Random(number)
        words = ["--config-file", draw.choice(files), "--root", "data", "-s", "synthocc", "-t", "synthocc"]
        words += [f"{draw.choice(('train', 'data', 'test', 'method', 'x'))}.{draw.choice(keys)}", draw.choice(_VALUES)]
        for _ in range(draw.randint(1, 4)):
            place, kind = draw.randrange(len(words)), draw.randrange(4)
            if kind == 0 and len(words) > 1:
                del words[place]
            elif kind == 1:
                words.insert(place, draw.choice([*words, *_VALUES]))
            elif kind == 2:
                words[place] = words[place][: draw.randint(0, len(words[place]))] + draw.choice(
                    ("", "=", "é", "\udce9")
                )
            else:
                draw.shuffle(words)
        tally.add(number, _attempt(lambda words=words: parse_config(config_parser("train", "."), list(words))))
    return tally


def checkpoints(count: int, seed: int) -> Tally:
    """Weight files of five kinds with changed bytes, cut off, or with a piece doubled."""
    tally = Tally(NAMES[checkpoints], "it is refused with a message, or gives the same numbers")
    state = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.bias": torch.rand(20), "n": torch.tensor(3)}
    kinds = {
        "a.pth": (lambda f: save_checkpoint({"state_dict": state}, f), None),
        "b.pth": (lambda f: torch.save({"state_dict": state}, f), lambda f: load_stock_checkpoint(f)["state_dict"]),
        "c.pth": (lambda f: torch.save(state, f), lambda f: read_tensors(f)[0]),
        "d.safetensors": (lambda f: save_small(f, state, 4, 2, config="a: 1\n"), lambda f: read_test_weights(f).state),
        "e.safetensors": (lambda f: Embedding(state["a.weight"]).save(f), lambda f: vars(Embedding.load(f))),
    }
    kinds["a.pth"] = (kinds["a.pth"][0], lambda f: read_tensors(f)[0])
    with tempfile.TemporaryDirectory() as name:
        whole = {}
        for file, (save, read) in kinds.items():
            save(Path(name) / file)
            whole[file] = ((Path(name) / file).read_bytes(), read(Path(name) / file))
        for number in range(seed, seed + count):
            draw = random.Random(number)
            file = draw.choice(list(kinds))
            content, expected = whole[file]
            path = Path(name) / file
            path.write_bytes(_damaged(content, draw))
            read = kinds[file][1]
            tally.add(number, _attempt(lambda read=read, path=path: read(path), lambda got, e=expected: _same(got, e)))
    return tally


def _same(found: dict, expected: dict) -> bool:
    tensors = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
    return all(isinstance(found.get(n), torch.Tensor) and torch.equal(found[n], v) for n, v in tensors.items())


def pictures(count: int, seed: int) -> Tally:
    """Pictures of six formats with changed bytes, cut off, or with a piece doubled."""
    tally = Tally(NAMES[pictures], "it is refused with a message, or is a picture")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 24, 3), dtype=np.uint8)
    whole = {}
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        whole[kind] = stream.getvalue()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.jpg"
        for number in range(seed, seed + count):
            draw = random.Random(number)
            path.write_bytes(_damaged(whole[draw.choice(list(whole))], draw))
            tally.add(number, _attempt(lambda: open_picture(path), lambda picture: picture.mode == "RGB"))
    return tally


NAMES = {
    configs: "mutated config files",
    command_lines: "mutated command lines",
    checkpoints: "damaged weight files",
    pictures: "damaged pictures",
}
