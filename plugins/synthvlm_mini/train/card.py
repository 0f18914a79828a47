"""The model card that ships beside the weights, written from the figures of the evaluation and the curves of the training."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FLOORS: Mapping[str, Mapping[str, float]] = {
    "checker": dict.fromkeys(("count", "layout", "color", "kind", "size", "setting", "style"), 0.97),
    "clip": dict.fromkeys(("color", "kind", "size", "setting", "style", "layout"), 0.95) | {"swap": 0.9, "pairs_per_second": 150},
    "captioner": {"detail": 0.9, "nouns": 0.85, "style": 0.85, "images_per_second": 50}
    | dict.fromkeys(("brief", "sentence", "background", "main"), 0.93),
    "generator": dict.fromkeys(("count", "layout", "color", "kind", "size", "setting", "style"), 0.93) | {"all": 0.6},
}
"""What the models are meant to reach at least."""


def missed(figures: Mapping[str, Any]) -> list[str]:
    """Return a line for every floor that the figures do not reach."""
    lines = []
    for model, floors in FLOORS.items():
        if model not in figures:
            continue
        have = figures[model]["grammar"] if model == "generator" else figures[model]
        lines += [f"{model}: {name} is {have[name]}, meant to be {floor}" for name, floor in floors.items() if have[name] < floor]
    return lines


def _table(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    rows = list(rows)
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    return lines + [f"| {title} | {' | '.join(str(values.get(name, '')) for name in names)} |" for title, values in rows]


def _training(out: Path) -> list[str]:
    rows = []
    for curve in sorted(out.glob("*.jsonl")):
        last = json.loads(curve.read_text().splitlines()[-1])
        told = {k: v for k, v in last.items() if k not in ("step", "seconds", "rate")}
        rows.append(
            (
                curve.stem,
                {"steps": last["step"], "minutes": round(last["seconds"] / 60), "at the end": json.dumps(told)[1:-1].replace('"', "")},
            )
        )
    return _table(rows)


def write(out: Path, figures: Mapping[str, Any], folder: Path, hardware: str) -> Path:
    """Write ``folder/README.md`` and ``folder/figures.json``; return the card's path."""
    short = missed(figures)
    lines = [
        "# The miniature models",
        "",
        "Small models of a picture-book world, for trying SynthVLM and testing it; they are no use on other pictures. They were trained",
        "from nothing, on pictures and captions that the project's own code makes (`synthvlm_mini.book`), by",
        "`python -m synthvlm_mini.train train`, and measured by `python -m synthvlm_mini.train evaluate`. Licence: that of SynthVLM.",
        "",
        f"## Training\n\nOn {hardware}. Seeds are fixed; one scene in ten, by a hash, was never seen.\n",
        *_training(out),
        "",
        f"## Figures\n\nOn {figures['scenes']} held-out scenes. The checker is a convolutional classifier trained on renders alone; it shares nothing",
        "with the other models. Its own row is its agreement with the truth on renders.",
        "",
        *_table([("checker, on renders", figures["checker"])]),
        "",
    ]
    if "generator" in figures:
        made = figures["generator"]
        rows = [("captions of the grammar", made["grammar"]), ("captions written by hand", made["handwritten"])]
        lines += [
            "Generator, one random seed, as the checker sees it:",
            "",
            *_table(rows),
            "",
            f"{made['seconds_per_image']} s a picture.",
            "",
        ]
    if "clip" in figures:
        lines += ["CLIP: how often the right caption beats one with a single error:", "", *_table([("share", figures["clip"])]), ""]
    if "selection" in figures:
        got = figures["selection"]
        shares = {k: v for k, v in got.items() if k not in ("gain", "interval", "captions")}
        lines += [f"Best of 8, share of {got['captions']} captions with every attribute right:", "", *_table([("share", shares)]), ""]
        lines += [
            f"The best by the total gains {got['gain']:+.3f} over a random one (95% interval {got['interval'][0]:+.3f} to {got['interval'][1]:+.3f}).",
            "",
        ]
    if "captioner" in figures:
        lines += ["Captioner: share of answers that are the truth word for word:", "", *_table([("share", figures["captioner"])]), ""]
    lines += ["## Limits", "", "They know one world of 19 kinds of things, and draw and see nothing else."]
    lines += ["Not reached yet:", "", *(f"- {line}" for line in short)] if short else ["Every floor that was set for them is reached."]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    card = folder / "README.md"
    card.write_text("\n".join(lines) + "\n")
    return card
