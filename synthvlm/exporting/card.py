"""The data card: ``README.md`` beside the data, which the Hub shows and reads (YAML front matter).

It says what there is, how it was made and chosen, by which models under which licences, what was filtered and what was not. It holds
no path, address, caption or time: it is made to be published, and equal exports have equal cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from synthvlm import __version__, curation
from synthvlm.curating.rules import words
from synthvlm.exporting import licences
from synthvlm.exporting.formats import CONVERSATIONS
from synthvlm.exporting.plan import Work, score_stages
from synthvlm.exporting.recipe import asked, checkpoints, pinned, ships
from synthvlm.reporting.names import formula, is_remark
from synthvlm.run import Stage, fetch
from synthvlm.sql import identifier

NAME = "README.md"
MARK = "<!-- Written by synthvlm export. Without this line it is yours, and is not written again. -->"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)
_FILES = {"imagefolder": "train/**", "webdataset": "data/*.tar", "parquet": "data/*.parquet", "recipe": "recipe.parquet"}
"""What ``datasets.load_dataset(FOLDER)`` is to read."""
_TEXT_SAFETY = {"blocked": "a blocklist of words", "personal": "a search for personal data"}
_BENCHMARKS = ("overlap", "phash_distance")
"""Columns of decontamination."""


def write(work: Work, done: Mapping[str, Any], licence: str | None, title: str | None) -> bool:
    """Write the card; say whether it was, since one that a user made their own stays."""
    old = work.store.read(NAME) if work.store.exists(NAME) else b""
    if old and MARK.encode() not in old:
        return False
    text = render(gather(work, done, title), licence).encode()
    if text != old:
        work.store.put(NAME, text)
    return True


def gather(work: Work, done: Mapping[str, Any], title: str | None) -> dict[str, Any]:
    """Return everything that the card says."""
    run, chosen = work.run, work.selection
    stages = [run.stage(n) for n in (chosen["images"], *chosen["scores"])] if chosen else list(work.stages)
    first = stages[0]
    if not chosen and first.reads["image"] != "samples":  # it captions images that the run made
        stages.insert(0, first := run.stage(first.reads["image"]))
    named = {s.name for s in stages}
    looked = [s for s in score_stages(run, work.source) if s.name not in named and any(card.get("limit") for card in s.cards.values())]
    curated = curation.record(run, first.runtime["curation"]) if first.runtime.get("curation") else None
    measured = [run.stage(n) for n in curated["stages"] if n in run.stage_names()] if curated else []
    scored = _scores(work) if chosen else None
    return {
        "title": title or ("Generated images and their captions" if first.kind == "generate" else "Images and their captions"),
        "format": work.format,
        "several": chosen is None,
        "generated": first.kind == "generate",
        "images": work.count(),
        "done": done,
        "version": __version__,
        "counts": _counts(work, curated),
        "scores": scored,
        "funnel": [f for f in curated["funnel"] if f["dropped"]] if curated else [],
        "curated": curated,
        "models": [model for stage in [*stages, *looked, *measured] for model in _models(stage)],
        "prompts": {f"{s.name}/{n}": p.get("prompt", "") for s in work.stages for n, p in s.perspectives.items()},
        "settings": yaml.safe_dump(_settings(work, stages, looked, measured, curated), sort_keys=False, allow_unicode=True),
        "safety": _safety(work, curated),
    }


def render(card: Mapping[str, Any], licence: str | None) -> str:
    """Return the card as Markdown with YAML front matter."""
    from jinja2 import Environment, StrictUndefined

    size = next((name for most, name in _SIZES if card["images"] < most), "n>100M")
    pattern = _FILES.get(card["format"])
    head = {
        "license": licence or "unknown",
        "pretty_name": card["title"],
        "task_categories": ["image-to-text", "text-to-image"] if not card["several"] else ["image-to-text"],
        "size_categories": [size],
        "tags": ["synthvlm", *(["synthetic"] if card["generated"] else ["synthetic-captions"])],
    }
    if pattern:
        head["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": pattern}]}]
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 (Markdown)
    environment.filters |= {"cell": _cell, "count": lambda n: f"{n:,}", "score": _score, "share": _share}
    template = environment.from_string((files("synthvlm") / "exporting" / "card.md.j2").read_text(encoding="utf-8"))
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return template.render(c=card, front=front, mark=MARK, conversations=CONVERSATIONS)


def _cell(value: Any) -> str:
    """Return a value as it may stand in a table of Markdown."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;") or "–"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _score(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "–"


def _counts(work: Work, curated: Mapping[str, Any] | None) -> list[tuple[str, int]]:
    """Return what there was at each step, in order."""
    counts = [("samples read", work.run.sample_count())]
    counts += [("captions kept by curation", curated["kept"])] if curated else []
    chosen = work.selection
    if chosen:
        counts += [
            ("scored candidates", chosen["pairs"]),
            ("captions with one", chosen["captions"]),
            ("selected pairs", chosen["selected"]),
        ]
    counts += [(f"kept out by the limit on {column}", n) for column, n in work.dropped.items()]
    return [*counts, ("images here", work.count())]


def _scores(work: Work) -> dict[str, Any]:
    """Return means and standard deviations of each set and of this export, and the cards of the columns."""
    assert work.selection is not None
    sets = dict(work.selection.get("sets", {}))
    numbers = [c for c in work.columns if work.selection["cards"].get(c, {}).get("type") != "string"]
    means = ", ".join(
        f"avg({identifier(c)}) AS {identifier(c)}, coalesce(stddev_samp({identifier(c)}), 0) AS {identifier(f'{c} sd')}" for c in numbers
    )
    sets["this data set"] = fetch(work.db, f"SELECT count(*) AS samples, {means} FROM plan")[0]
    shown = [c for c in numbers if all(isinstance(s.get(c), (int, float)) for s in sets.values())]
    return {
        "columns": [c for c in shown if not is_remark(c, shown)],
        "shares": {c: sets["this data set"][c] for c in shown if is_remark(c, shown)},
        "sets": sets,
        "formula": formula(work.selection["weights"]),
        "top": work.selection["top"],
        "by_rank": work.selection.get("asked", {}).get("normalise") == "rank",
        "cards": {c: dict(_flat(card)) for c, card in work.selection["cards"].items() if c in work.columns},
    }


def _flat(data: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return nested settings as (dotted name, value) lines."""
    if isinstance(data, Mapping):
        return [line for name, value in data.items() for line in _flat(value, f"{path}.{name}" if path else str(name))]
    return [(path.replace("_", " "), data)]


def _models(stage: Stage) -> list[dict[str, str]]:
    """Return the models of a stage: what each did, which it is, its licence."""
    told = []
    for plugin in stage.plugins:
        what = {"step": stage.name, "plugin": f"{plugin['name']} {plugin['version']}"}
        found = checkpoints(plugin)
        own = {n for n, c in plugin.get("checkpoints", {}).items() if ships(c)}
        for n, c in found.items():
            licence = licences.bundled(plugin["distribution"]) if n in own else licences.licence(c["asked"])
            told.append(what | {"model": c["asked"], "revision": c["revision"], "licence": licence})
        if not found:
            told.append(
                what | {"model": "in the plugin", "revision": plugin["version"], "licence": licences.bundled(plugin["distribution"])}
            )
    return told


def _settings(
    work: Work, stages: Sequence[Stage], looked: Sequence[Stage], measured: Sequence[Stage], curated: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the settings as a recipe has them: ``synthvlm run`` does the same again."""
    steps: list[dict[str, Any]] = []
    if curated:
        scorers = {p["name"]: _without_blocklist(asked(s, p)) for s in measured for p in s.plugins}
        steps.append({"curate": {"scorers": scorers, **{k: v for k, v in curated["settings"].items() if v not in (None, [], {})}}})
    for stage in stages:
        plugin = stage.plugins[0]
        if stage.kind == "generate":
            image = stage.identity["image"]
            settings = {"model": plugin["name"], "options": asked(stage, plugin), "repeat": stage.repeat, "image_format": image["format"]}
            steps.append({"generate": settings | ({"quality": image["quality"]} if image["quality"] else {})})
        elif stage.kind == "score":
            steps.append(_score_step(stage))
        else:
            settings = {"model": plugin["name"], "options": asked(stage, plugin), "perspectives": list(stage.perspectives)}
            steps.append({"caption": settings | {"name": stage.name}})
    if work.selection:
        more = {k: v for k, v in work.selection.get("asked", {}).items() if v not in (None, "none")}
        steps.append({"select": {"weights": dict(work.selection["weights"]), "top": work.selection["top"], **more}})
    steps += [_score_step(stage) for stage in looked]
    limits = {c: list(limit) for c, limit in work.limits.items()}
    steps.append({"export": {"formats": [work.format], **({"limits": limits} if limits else {})}})
    return {"seed": work.run.seed, "steps": steps}


def _score_step(stage: Stage) -> dict[str, Any]:
    # Scorers of weights that ship with the image model are those that it recommends, which are taken where none are named.
    if any(ships(c) for p in stage.plugins for c in p.get("checkpoints", {}).values()):
        return {"score": {"name": stage.name}}
    return {"score": {"scorers": {p["name"]: asked(stage, p) for p in stage.plugins}, "name": stage.name}}


def _without_blocklist(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out the words of a blocklist, which are better not published."""
    return {k: v for k, v in options.items() if k != "blocklist" or not v}


def _safety(work: Work, curated: Mapping[str, Any] | None) -> list[str]:
    """Say which filters for safety were used, and which were not."""
    lines = []
    dropped = {f["reason"]: f["dropped"] for f in curated["funnel"]} if curated else {}
    limits = curated["limits"] if curated else {}
    for column, what in _TEXT_SAFETY.items():
        used = column in limits
        lines.append(f"Captions: {what} was used; it dropped {dropped.get(column, 0):,}." if used else f"Captions: {what} was not used.")
    used = [c for c in _BENCHMARKS if c in {**limits, **work.limits}]
    if used:
        gone = sum(dropped.get(c, 0) + work.dropped.get(c, 0) for c in used)
        lines.append(f"Benchmarks: decontaminated ({', '.join(used)}); {gone:,} dropped, beside what was never chosen.")
    else:
        lines.append("Benchmarks: not decontaminated; captions or images may stand in benchmarks too.")
    cards = {c: (s, card) for s in score_stages(work.run, work.source) for c, card in s.cards.items() if card.get("limit")}
    cards = {c: found for c, found in cards.items() if c not in _BENCHMARKS}
    for column, (stage, card) in cards.items():
        models = ", ".join(pinned(c) for p in stage.plugins for c in p.get("checkpoints", {}).values()) or stage.name
        if column in work.limits:
            held = f"kept if {column} is {words(*work.limits[column])}; {work.dropped.get(column, 0):,} were kept out of what was chosen"
        else:
            held = f"measured as {column}, and no limit was set"
        lines.append(f"Images: {card.get('metric', column)}, by {models}: {held}.")
    if not cards:
        lines.append("Images: no model for unsafe images was run over them.")
    return lines
