"""The model card of the embedded tiny CLIP, written from measured figures alone."""

from __future__ import annotations

from occplug.backbones.tiny import describe, load
from pretraining.scoring import Scores
from pretraining.texts import PHRASES, VALUES

__all__ = ["write_card"]

# Goals for about a million samples: macro accuracy, and R@10 of 600.
GOALS = {"top_color": 0.5, "bottom_color": 0.75, "bottom_type": 0.75, "hat": 0.55, "bag": 0.4, "top_pattern": 0.3}
GOAL_R10 = 0.7
LEARNT = 1.5  # times chance; below that an attribute is called not learnt, or barely

TEXT = """# clip_vit_tiny: the embedded tiny CLIP

A CLIP of 1.9 M parameters beside its token table (image tower: 6 blocks of width 128 on 16x8 patches of 8 pixels;
text tower: 3 blocks of width 128; embedding 96). It was trained from nothing on rendered people of SynthOcc and the
sentences that describe them. **It knows rendered people, not photographs**, and is there so that everything runs, and
means something, on a machine without network or real data. It is no replacement for CLIP's own weights.
Licence: CC0-1.0; nobody depicted in the training images is real.

## How it was made
{facts}

{extra}

## What it knows
Macro accuracy (mean over the classes of an attribute), per cent, by the nearest of averaged prompts. The attribute
words were trained, both in captions and in short one-attribute captions of the same form, so this is not transfer to
unseen words; the people were never seen. *Held out*: people of the training world under its cameras. *Benchmark*:
SynthOcc's test people under its own cameras (severity .6), without and with an occluder.

{attributes}

What stands in front, by prompts "occluded by a car", ..., and "not occluded": share that is right, per cent (chance
{occluder_chance}). *Nothing*: images without an occluder.

{occluders}

Retrieval among 600 (held out), one full caption per image; chance is 0.2 at 1 and 1.7 at 10:

{retrieval}

The same scenes without the person (leak check): {leak}

Goals set before training, at a million samples: {goals}

**Not learnt, or barely** (held-out macro accuracy below {learnt} times chance): {failed}.

## What is in the file
{contents}

Methods use raw products of image and text features. They are at the learnt temperature: the projections are scaled
so that image features have a mean norm of {image_norm} (OpenAI's have about 10, and margins of triplet losses act on
it) and text features one of {text_norm}, together the logit scale {logit_scale}.
"""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _goals(held_out: Scores) -> str:
    recall = {k: v for k, v in held_out.retrieval.items() if k.endswith("R@10")}
    checks = [(name, held_out.attributes[name], goal) for name, goal in GOALS.items()]
    checks += [(name, value, GOAL_R10) for name, value in recall.items()]
    words = [f"{n} > {100 * g:.0f} ({'met' if v > g else 'missed'}: {_percent(v)})" for n, v, g in checks]
    return "; ".join(words) + "."


def _occluders(scores: dict[str, Scores]) -> str:
    sets = ["held out, occluded", "benchmark, occluded"]
    kinds = [name for name in VALUES["occluder"] if name != "none"]
    found = [scores[s].occluders for s in sets]
    rows = [[kind, *(_percent(recall[kind]) if kind in recall else "-" for recall in found)] for kind in kinds]
    rows.append(["mean of kinds", *(_percent(sum(recall.values()) / len(recall)) for recall in found)])
    rows.append(["nothing", *(_percent(scores[s.removesuffix(", occluded")].occluders["none"]) for s in sets)])
    return _table(["occluder", *(s.removesuffix(", occluded") for s in sets)], rows)


def write_card(path, weights, facts: dict[str, str], extra: str, scores: dict[str, Scores]) -> None:
    """Write the card.

    Args:
        path: the .md file.
        weights: the weight file it describes.
        facts: what made it (samples, time, command, versions), one line each.
        extra: one or two sentences on losses and schedule.
        scores: by set; "held out", "held out, occluded", "benchmark", "benchmark, occluded", "no person".
    """
    held_out, leak = scores["held out"], scores["no person"]
    names = [name for name in PHRASES if name != "occluder"]
    chance = {name: 1 / len(VALUES[name]) for name in names}
    shown = ["held out", "benchmark", "benchmark, occluded", "no person"]
    rows = [[n, _percent(chance[n]), *(_percent(scores[s].attributes[n]) for s in shown)] for n in names]
    failed = [name for name in names if held_out.attributes[name] < LEARNT * chance[name]]
    about, logit_scale = describe(weights), load(weights)["logit_scale"].exp().item()
    contents = (
        f"{weights.stat().st_size / 1e6:.2f} MB, fp16. Token rows: {len(about['trained'])} trained, "
        f"{len(about['stored_untrained'])} stored but untrained (common words, at their initial noise), "
        f"{about['absent']} drawn again at load time. `occplug.backbones.tiny.describe()` lists them."
    )
    text = TEXT.format(
        facts="\n".join(f"* {name}: {value}" for name, value in facts.items()),
        extra=extra,
        attributes=_table(["attribute", "chance", *shown], rows),
        occluders=_occluders(scores),
        occluder_chance=_percent(1 / len(VALUES["occluder"])),
        image_norm=about["metadata"]["image_norm"],
        text_norm=f"{logit_scale / float(about['metadata']['image_norm']):.2f}",
        logit_scale=f"{logit_scale:.1f}",
        retrieval=_table(list(held_out.retrieval), [[_percent(v) for v in held_out.retrieval.values()]]),
        leak=", ".join(f"{name} {_percent(value)}" for name, value in leak.retrieval.items()) + ".",
        goals=_goals(held_out),
        learnt=LEARNT,
        failed=", ".join(failed) or "none",
        contents=contents,
    )
    path.write_text(text, encoding="utf-8")
