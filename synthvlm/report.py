"""One page on a run: scores before and after selection, what decided, pictures, captions, failures, settings. It opens offline, light or dark."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from synthvlm.reporting import captions, charts, figures, pictures
from synthvlm.run import RunDirectory, quote
from synthvlm.storage import Store


def report(run: RunDirectory, *, selection: str = "default", out: str | os.PathLike[str] | None = None, images: str | None = None) -> str:
    """Write the page and, beside it, its figures as JSON; return the page's path.

    ``out`` is a folder or the path of an ``.html`` file (default: ``RUN/report/report.html``, for another selection
    ``report-NAME.html``). A run without a selection, or without scores, has a page too. ``images`` names the image stage
    where there is no selection to tell. Raises RunError if there are no images, or no such selection.
    """
    where = os.fspath(out) if out is not None else f"{run.root}/report"
    folder, _, page = (
        where.rpartition("/")
        if where.endswith(".html")
        else (where, "", "report.html" if selection == "default" else f"report-{selection}.html")
    )
    store = Store(folder or ".")
    with tempfile.TemporaryDirectory(prefix="synthvlm-") as scratch, run.connect() as db:
        db.execute(f"SET temp_directory = {quote(scratch)}")
        told = captions.gather(run, db)
        made = any(run.stage(n).kind == "generate" for n in run.stage_names())
        if told and not made:
            numbers, text = {"captions": told}, render_captions(told)
        else:
            subject = figures.open_subject(run, db, selection, images)
            numbers = figures.gather(subject)
            text = render(numbers, pictures.gather(subject), told)
            numbers |= {"captions": told} if told else {}
    if told:
        told["examples"] = [{k: v for k, v in e.items() if k != "image"} for e in told["examples"]]
    store.put_json(page.removesuffix(".html") + ".json", numbers)
    store.put(page, text.encode())
    return f"{folder or '.'}/{page}"


def render_captions(told: Mapping[str, Any]) -> str:
    """Return the page of a run that captions images and makes none."""
    return _template("captions_page.html.j2").render(c=told, section=_part("captions.html.j2", told), style=_style(), settings=settings)


def _part(template: str, data: Mapping[str, Any] | None) -> Any:
    """Return a part of the page, or nothing where there is nothing to tell."""
    from markupsafe import Markup

    return Markup(_template(template).render(c=data)) if data else ""  # noqa: S704 (its values are escaped)


def _style() -> Any:
    from markupsafe import Markup

    return Markup((files("synthvlm") / "reporting" / "report.css").read_text(encoding="utf-8"))  # noqa: S704 (ours)


def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"count": _count, "score": _score, "percent": _percent, "label": figures.label}
    return environment.from_string((files("synthvlm") / "reporting" / name).read_text(encoding="utf-8"))


def render(numbers: Mapping[str, Any], shown: Mapping[str, Any], told: Mapping[str, Any] | None = None) -> str:
    """Return the page; ``told``: what there is on captions."""
    from plotly.offline import get_plotlyjs

    scored, chosen = numbers["scored"], numbers["selection"]
    drawn = charts.charts(scored, chosen["threshold"] if chosen else None) if scored else []
    scripts = {c["id"]: charts.as_script(c["figure"]) for c in drawn if c["figure"]}
    plotly = get_plotlyjs().replace("</script", "<\\/script") if scripts else ""
    page = {"f": numbers, "shown": shown, "charts": drawn, "scripts": scripts, "plotly": plotly, "settings": settings, "on_card": on_card}
    curated = _part("curation.html.j2", numbers.get("curation"))
    return _template("report.html.j2").render(**page, curated=curated, captions=_part("captions.html.j2", told), style=_style())


def settings(identity: Any, path: str = "") -> list[tuple[str, str]]:
    """Return a stage's identity as (dotted name, value) lines."""
    if isinstance(identity, Mapping):
        return [line for name in identity for line in settings(identity[name], f"{path}.{name}" if path else str(name))]
    words = {"None": "none", "True": "yes", "False": "no", "": "(empty)"}
    return [(path, words.get(str(identity), str(identity)))]


def on_card(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a score's card as (name, value) lines; what is nested in it stands on one line."""
    lines = [(name, settings(value)) for name, value in card.items()]
    return [(name.replace("_", " "), ", ".join(f"{n} {v}" if n else v for n, v in values)) for name, values in lines]


def _count(n: int | None) -> str:
    return "–" if n is None else f"{n:,}"


def _score(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}%".replace("-", "−")
