"""From figures and pictures to the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from synthvlm.reporting import charts, names


def page(numbers: Mapping[str, Any], shown: Sequence[Mapping[str, Any]]) -> str:
    """Return the page on ``numbers``, with what is ``shown`` of each of its runs."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    runs, drawn = [], charts.of_table(numbers["table"]) if len({r["of"] for r in numbers["table"]["rows"]}) > 1 else []
    for n, (f, more) in enumerate(zip(numbers["runs"], shown, strict=True)):
        prefix = f"run-{n + 1}-" if n else ""
        told = f.get("captions")
        own = {
            "scores": charts.of_scores(f, prefix) if f.get("scored") else [],
            "line": charts.of_line(f, prefix) if "funnel" in f else [],
            "captions": charts.of_captions(told, prefix) if told else [],
        }
        runs.append({"f": f, "c": told, "shown": more, "charts": own, "id": f"run-{n + 1}"})
    every = [*drawn, *(c for r in runs for kind in r["charts"].values() for c in kind)]
    scripts = {c["id"]: Markup(charts.as_script(c["figure"])) for c in every if c["figure"]}  # noqa: S704 (escaped for a script)
    plotly = Markup(get_plotlyjs().replace("</script", "<\\/script")) if scripts else ""  # noqa: S704 (the library itself)
    style = Markup(_file("report.css"))  # noqa: S704 (ours)
    environment = _environment()
    return environment.get_template("page.html.j2").render(
        table=numbers["table"], runs=runs, drawn=drawn, scripts=scripts, plotly=plotly, style=style, settings=settings, on_card=on_card
    )


def _file(name: str) -> str:
    return (files("synthvlm") / "reporting" / name).read_text(encoding="utf-8")


def _environment() -> Any:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_file)
    )
    environment.filters |= {"count": _count, "score": _score, "percent": _percent, "label": names.label}
    return environment


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
