"""The report's charts, as plotly figures in JSON. Colours are names (``@accent`` …), for which the page puts its own: light, dark, print."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from synthvlm.reporting.figures import label

UNITS = {"clip": "CLIPScore (cosine similarity)", "ssim": "SSIMScore (structural similarity)"}
COLOURS = ("@text", "@line", "@muted", "@accent", "@faint", "@warm")
"""What the page knows to put in."""


def charts(scored: Mapping[str, Any], threshold: float | None) -> list[dict[str, Any]]:
    """Return the charts: id, title, whether it is wide, and the figure as JSON or a sentence in its place."""
    made = [_histogram(name, bins, scored["formula"], bool(scored["selected"])) for name, bins in scored["histograms"].items()]
    if scored["density"]:
        made.append(_density(scored["density"], scored["weights"], threshold))
    drawn = [c for c in made if c["figure"]]
    if len(drawn) % 2:
        drawn[-1]["wide"] = True  # two abreast, and no hole at the end
    return made


def _histogram(column: str, bins: Mapping[str, Any], formula: str, selected: bool) -> dict[str, Any]:
    chart: dict[str, Any] = {"id": f"histogram-{column}", "title": label(column), "wide": False, "figure": None, "instead": None}
    if bins["missing"]:
        chart["title"] += f" ({bins['missing']:,} pairs have none)"
    if "value" in bins:
        value = (
            "no pair has a value."
            if bins["value"] is None
            else f"every pair has the value {bins['value']:.4g}, so it has no say in the order."
        )
        return chart | {"instead": value}
    centres = _centres(bins, len(bins["all"]))
    traces = []
    for name, key, colour in [("all candidates", "all", "@muted"), *([("selected", "selected", "@accent")] if selected else [])]:
        whole = sum(bins[key]) or 1
        traces.append(
            {
                "type": "bar",
                "name": name,
                "x": centres,
                "y": [round(100 * n / whole, 4) for n in bins[key]],
                "customdata": bins[key],
                "width": bins["step"],
                "marker": {"color": colour, "line": {"width": 0}},
                "opacity": 0.6,
                "hovertemplate": f"{name}: %{{customdata:,}} pairs (%{{y:.1f}}%)<br>around %{{x:.4g}}<extra></extra>",
            }
        )
    title = f"Total = {formula}" if column == "total" else UNITS.get(column, column)
    return chart | {"figure": _figure(traces, title, "share of pairs (%)", 280, barmode="overlay", bargap=0, showlegend=len(traces) > 1)}


def _density(density: Mapping[str, Any], weights: Mapping[str, float], threshold: float | None) -> dict[str, Any]:
    x: str
    y: str
    x, y = density["columns"]
    counts = density["counts"]
    few = {"dtick": 1} if max(map(max, counts)) <= 5 else {}
    xs, ys = _centres(density["x"], len(counts[0])), _centres(density["y"], len(counts))
    traces: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": xs,
            "y": ys,
            "z": [[n or None for n in row] for row in counts],
            "colorscale": [[0, "@faint"], [1, "@accent"]],
            "colorbar": {"title": {"text": "pairs", "side": "right"}, "thickness": 10, "outlinewidth": 0, "tickformat": "~s", **few},
            "hoverongaps": False,
            "hovertemplate": f"%{{z:,}} pairs<br>{label(x)} %{{x:.4g}}, {label(y)} %{{y:.4g}}<extra></extra>",
        }
    ]
    spans = [[c[0] - axis["step"] / 2, c[-1] + axis["step"] / 2] for c, axis in ((xs, density["x"]), (ys, density["y"]))]
    # The line is the least Total that was selected. With more than two terms it would not be a line in this plane.
    if threshold is not None and len(weights) == 2 and weights[y]:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"least Total selected: {threshold:.4g}",
                "x": spans[0],
                "y": [(threshold - weights[x] * end) / weights[y] for end in spans[0]],
                "line": {"color": "@warm", "width": 2, "dash": "dash"},
                "hoverinfo": "skip",
            }
        )
    figure = _figure(traces, UNITS.get(x, x), label(y), 280, showlegend=len(traces) > 1)
    figure["layout"]["xaxis"]["range"], figure["layout"]["yaxis"]["range"] = spans
    return {"id": "density", "title": f"{label(x)} and {label(y)} of all candidates", "wide": False, "instead": None, "figure": figure}


def _centres(axis: Mapping[str, float], count: int) -> list[float]:
    return [float(f"{axis['start'] + (n + 0.5) * axis['step']:.9g}") for n in range(count)]


def _figure(traces: list[dict[str, Any]], x: str, y: str, height: int, **layout: Any) -> dict[str, Any]:
    axis = {
        "gridcolor": "@line",
        "linecolor": "@line",
        "zeroline": False,
        "ticks": "outside",
        "tickcolor": "@line",
        "fixedrange": True,
        "automargin": True,
    }
    return {
        "data": traces,
        "layout": {
            "height": height,
            "margin": {"l": 56, "r": 16, "t": 8, "b": 48},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "@text"},
            "hovermode": "closest",
            "dragmode": False,
            "legend": {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
            "xaxis": {**axis, "title": {"text": x}},
            "yaxis": {**axis, "title": {"text": y}},
            **layout,
        },
    }


def as_script(figure: Mapping[str, Any]) -> str:
    """Return a figure as JSON that may stand in a ``<script>`` element, whatever a column is called."""
    text = json.dumps(figure, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
