"""What the learnt tokens of each identity say, and whether they carry its attributes."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader
from torch import Tensor

import occplug
from occplug.backbones import tiny
from occplug.backbones.weights import TOKEN_TABLE, read_clip
from occplug.engine import check_same_run, load_checkpoint
from occplug.errors import CheckpointError, ConfigError
from occplug.evaluation import linear_probe, slot_accuracies
from occplug.prompts import Template, nearest_words, parse_template, vocabulary
from occplug.registry import DATASETS, build
from occplug.utils.files import user_path, write_atomically
from occplug.zoo.addresses import weight_file

__all__ = ["attribute_report"]

log = logging.getLogger(__name__)
PAGES = {".html": "attribute_report.html", ".md": "attribute_report.md"}
WORDS = 3  # nearest words named for each token
FOLDS, SHUFFLES = 5, 49


def attribute_report(cfg, weights: str, output: str) -> Path:
    """Write the page `output` on the prompts in the checkpoint `weights`; returns its path.

    For every identity and learnable token it names the nearest words; on SynthOcc, whose attributes are known, linear
    probes tell how well tokens predict them against labels that mean nothing.

    Args:
        weights: a checkpoint, the folder of a run, or `hf://user/repo/FILE.pth`; the zoo's files hold no prompts.

    Raises:
        ConfigError: a page of another kind, or a config without prompts or token table.
        CheckpointError: missing, unsafe, without prompts, or of another template.
    """
    page = user_path(output)
    if page.suffix not in PAGES:
        raise ConfigError(f"--output is {output!r}; the page is a {' or '.join(PAGES)} file")
    if "template" not in cfg.method:
        raise ConfigError(f"{cfg.model.name} has no key method.template, and the report is about its tokens")
    state = load_checkpoint(weight_file(weights))
    template = parse_template(cfg.method.template)
    tokens = _tokens(state, template, weights)
    table, words = _table_and_words(cfg)
    people = _people(cfg, state, weights)
    if tokens.shape[2] != table.shape[1]:
        raise CheckpointError(
            f"{weights} has tokens of width {tokens.shape[2]}, and {cfg.backbone.name} has words of width "
            f"{table.shape[1]}; give the config it was trained with"
        )
    content = {
        "template": _numbered(template),
        "heads": [f"[{j + 1}]" for j in range(tokens.shape[1])],
        **_in_words(tokens, state["pids"], people, table, words),
        "probes": _probes(tokens, state["pids"], people) if people else [],
        "folds": FOLDS,
        "shuffles": SHUFFLES,
        "weights": str(weights),
        "vocabulary": len(words),
        "version": occplug.__version__,
    }
    environment = Environment(
        loader=PackageLoader("occplug", "assets"), autoescape=page.suffix == ".html", trim_blocks=True
    )
    text = environment.get_template(PAGES[page.suffix]).render(content)
    write_atomically(page, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return page


def _tokens(state: dict, template: Template, weights: str) -> Tensor:
    """Learnt tokens [K, r, W] of the checkpoint's identities."""
    context = state["state_dict"].get("prompts.context")
    if context is None:
        raise CheckpointError(f"{weights} holds no prompts (a baseline?); give one of a method that learns them")
    check_same_run(state, {"method.template": template.text}, state.get("pids", []), weights)
    if context.shape[1] != len(template.slots["X"]):
        raise CheckpointError(
            f"{weights} has {context.shape[1]} learnt tokens per identity, and method.template has "
            f"{len(template.slots['X'])}; set the template it was trained with"
        )
    return context.float()


def _table_and_words(cfg) -> tuple[Tensor, dict[int, str]]:
    """The token table [vocabulary, W] of the config's CLIP, and the words that mean something in it."""
    source, name = cfg.backbone.weights, cfg.backbone.name
    if source == "none":
        raise ConfigError("backbone.weights is 'none', but words have no embeddings then; name the CLIP of training")
    state, where = read_clip(source, name)
    if TOKEN_TABLE not in state:
        raise CheckpointError(f"{where} has no {TOKEN_TABLE}; give a file with CLIP's text side")
    known = tiny.describe()["trained"] if source in tiny.NAMES else None
    return state[TOKEN_TABLE], vocabulary(known)


def _people(cfg, state: dict, weights: str) -> dict[int, dict]:
    """Person number -> known attributes; empty where nothing is known.

    Raises:
        CheckpointError: the weights were trained on another version, whose people of the same numbers look otherwise.
    """
    if list(cfg.data.sources) != ["synthocc"]:
        return {}
    data = build(DATASETS, "synthocc", root=cfg.data.root, verbose=False, **cfg.synthocc)
    before = state["data"].get("synthocc", {}).get("fingerprint")
    if before != data.fingerprint:
        raise CheckpointError(
            f"{weights} was not trained on the synthocc in {cfg.data.root} (synthocc.size {cfg.synthocc.size}), so its "
            "people look otherwise; set data.root and synthocc as in its run"
        )
    return data.identities


def _numbered(template: Template) -> str:
    """The template with its learnable tokens as [1], [2], ..."""
    first, *others = template.words()
    return first + "".join(f"[{j}]{text}" for j, text in enumerate(others, start=1))


def _in_words(tokens: Tensor, pids: list, people: dict, table: Tensor, words: dict[int, str]) -> dict:
    """Rows of the table of identities, and how near the words are, beside those of random vectors."""
    count = min(WORDS, len(words))
    words_of = nearest_words(tokens.flatten(0, 1), table, words, count)
    noise = torch.randn(500, tokens.shape[2], generator=torch.Generator().manual_seed(0))
    random = [near[0][1] for near in nearest_words(noise, table, words, 1)]
    slots = tokens.shape[1]
    rows = [
        {"pid": pid, "tokens": words_of[k * slots : (k + 1) * slots], "caption": people.get(pid, {}).get("caption", "")}
        for k, pid in enumerate(pids)
    ]
    nearest = [near[0][1] for near in words_of]
    return {"rows": rows, "near": sum(nearest) / len(nearest), "random": sum(random) / len(random)}


def _probes(tokens: Tensor, pids: list, people: dict) -> list[dict]:
    """One row an attribute: accuracy from all tokens and from each alone, and of guessing."""
    known = [people[pid] for pid in pids]
    groups = torch.tensor([person["group"] for person in known])
    rows = []
    for name in known[0]:
        if name in ("caption", "group"):
            continue
        chosen = torch.tensor([k for k, person in enumerate(known) if person[name] is not None])
        values = sorted({known[k][name] for k in chosen.tolist()})
        if len(values) < 2 or len(groups[chosen].unique()) < FOLDS:
            log.info("%s: too few identities to probe", name)
            continue
        labels = torch.tensor([values.index(known[k][name]) for k in chosen.tolist()])
        some, of_person = tokens[chosen], groups[chosen]
        whole = linear_probe(some.flatten(1), labels, of_person, FOLDS, SHUFFLES)
        single = slot_accuracies(some, labels, of_person, FOLDS)
        log.info("%s: %.3f, shuffled %.3f (p %.2f)", name, whole.accuracy, whole.shuffled, whole.p_value)
        best = 1 + single.index(max(single))
        rows.append({"name": name.replace("_", " "), "whole": whole, "single": single, "best": best})
    return rows
