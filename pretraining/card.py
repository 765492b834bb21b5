"""The model card of the embedded tiny CLIP, written from measured figures alone."""

from __future__ import annotations

from occplug.backbones.tiny import describe
from occplug.datasets.synthocc import ATTRIBUTES
from pretraining.scoring import Scores
from pretraining.texts import PHRASES

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

Retrieval among 600 (held out), one full caption per image; chance is 0.2 at 1 and 1.7 at 10:

{retrieval}

The same scenes without the person (leak check): {leak}

Goals set before training, at a million samples: {goals}

**Not learnt, or barely** (held-out macro accuracy below {learnt} times chance): {failed}.

## What is in the file
{contents}
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


def write_card(path, weights, facts: dict[str, str], extra: str, scores: dict[str, Scores]) -> None:
    """Write the card.

    Args:
        path: the .md file.
        weights: the weight file it describes.
        facts: what made it (samples, time, command, versions), one line each.
        extra: one or two sentences on losses and schedule.
        scores: by set; "held out", "benchmark", "benchmark, occluded", "no person".
    """
    held_out, leak = scores["held out"], scores["no person"]
    chance = {name: 1 / len(ATTRIBUTES[name]) for name in PHRASES}
    shown = ["held out", "benchmark", "benchmark, occluded", "no person"]
    rows = [[n, _percent(chance[n]), *(_percent(scores[s].attributes[n]) for s in shown)] for n in PHRASES]
    failed = [name for name in PHRASES if held_out.attributes[name] < LEARNT * chance[name]]
    about = describe(weights)
    contents = (
        f"{weights.stat().st_size / 1e6:.2f} MB, fp16. Token rows: {len(about['trained'])} trained, "
        f"{len(about['stored_untrained'])} stored but untrained (common words, at their initial noise), "
        f"{about['absent']} drawn again at load time. `occplug.backbones.tiny.describe()` lists them."
    )
    text = TEXT.format(
        facts="\n".join(f"* {name}: {value}" for name, value in facts.items()),
        extra=extra,
        attributes=_table(["attribute", "chance", *shown], rows),
        retrieval=_table(list(held_out.retrieval), [[_percent(v) for v in held_out.retrieval.values()]]),
        leak=", ".join(f"{name} {_percent(value)}" for name, value in leak.retrieval.items()) + ".",
        goals=_goals(held_out),
        learnt=LEARNT,
        failed=", ".join(failed) or "none",
        contents=contents,
    )
    path.write_text(text, encoding="utf-8")
