"""The report's charts, as plotly figures in JSON. Colours are names (``@accent`` …), for which the page puts its own: light, dark, print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from synthvlm.reporting.names import label

UNITS: Mapping[str, str] = {"clip": "CLIPScore (cosine similarity)", "ssim": "SSIMScore (structural similarity)"}
COLOURS = ("@text", "@line", "@muted", "@accent", "@faint", "@warm", "@third", "@fourth")
"""What the page knows to put in."""
_LINES = ("@accent", "@warm", "@third", "@fourth", "@muted", "@text")
_DASHES = ("solid", "dash", "dot")


Chart = dict[str, Any]


def of_scores(run: Mapping[str, Any], prefix: str = "") -> list[Chart]:
    """Return the charts of a run's scores: id, title, whether it is wide, and the figure as JSON or a sentence in its place."""
    scored, selection = run["scored"], run["selection"]
    pairs = "all candidates" if run["images"] else "all pairs"
    made = []
    for name, bins in scored["histograms"].items():
        axis = f"Total = {scored['formula']}" if name == "total" else UNITS.get(name, str(name))
        made.append(_histogram(name, label(name), bins, axis, ("pairs", pairs), bool(scored["selected"])))
    if scored["density"]:
        # A least Total of ranks is no line among the scores themselves.
        line = selection["threshold"] if selection and scored["normalise"] == "none" else None
        made.append(_density(scored["density"], scored["weights"], line, pairs))
    return _placed(made, prefix)


def of_line(run: Mapping[str, Any], prefix: str = "") -> list[Chart]:
    """Return the charts of a run's captions and of what became of them."""
    made = [_funnel(run["funnel"])] if len(run["funnel"]) > 1 else []
    chosen = bool(run["scored"] and run["scored"]["selected"])
    made.append(_histogram("words", "Length of captions", run["lengths"], "words", ("captions", "all captions"), chosen))
    if run["tokens_cut"]:
        cut = _histogram("tokens-cut", "Tokens cut off", run["tokens_cut"], "tokens", ("images", "images whose caption was cut"), False)
        made.append(cut)
    return _placed(made, prefix)


def of_captions(told: Mapping[str, Any], prefix: str = "") -> list[Chart]:
    """Return the chart of the captions' lengths by captioner and perspective."""
    return _placed([_lengths(told["lengths"])], prefix) if told["lengths"] else []


def of_table(table: Mapping[str, Any]) -> list[Chart]:
    """Return, for a table of several runs or data sets, a chart of means with their intervals for each column that has several."""
    made = [_intervals(n, c, table["rows"]) for n, c in enumerate(table["columns"])]
    return _placed([c for c in made if c], "")


def _placed(made: list[Chart], prefix: str) -> list[Chart]:
    drawn = [c for c in made if c["figure"]]
    if len(drawn) % 2:
        drawn[-1]["wide"] = True  # two abreast, and no hole at the end
    return [c | {"id": f"{prefix}{c['id']}"} for c in made]


def _chart(name: str, title: str, figure: Mapping[str, Any] | None) -> Chart:
    return {"id": name, "title": title, "wide": False, "figure": figure, "instead": None}


def _histogram(name: str, title: str, bins: Mapping[str, Any], axis: str, of: tuple[str, str], selected: bool) -> Chart:
    """Return a chart of shares in bins. ``of``: what is counted, and what all of it is called."""
    things, everything = of
    chart = _chart(f"histogram-{name}", title, None)
    if bins["missing"]:
        chart["title"] += f" ({bins['missing']:,} {things} have none)"
    if "value" in bins:
        one, value = things.removesuffix("s"), bins["value"]
        why = ", so it has no say in the order" if things == "pairs" else f" {axis}"
        return chart | {"instead": f"no {one} has a value." if value is None else f"every {one} has {value:.4g}{why}."}
    centres = _centres(bins, len(bins["all"]))
    traces = []
    for said, key, colour in [(everything, "all", "@muted"), *([("selected", "selected", "@accent")] if selected else [])]:
        whole = sum(bins[key]) or 1
        traces.append(
            {
                "type": "bar",
                "name": said,
                "x": centres,
                "y": [round(100 * n / whole, 4) for n in bins[key]],
                "customdata": bins[key],
                "width": bins["step"],
                "marker": {"color": colour, "line": {"width": 0}},
                "opacity": 0.6,
                "hovertemplate": f"{said}: %{{customdata:,}} {things} (%{{y:.1f}}%)<br>around %{{x:.4g}}<extra></extra>",
            }
        )
    share = f"share of {things} (%)"
    return chart | {"figure": _figure(traces, axis, share, 280, barmode="overlay", bargap=0, showlegend=len(traces) > 1)}


def _funnel(steps: Sequence[Mapping[str, Any]]) -> Chart:
    """Return bars of the captions that are left after each step, with the share of those before."""
    counts = [s["captions"] for s in steps]
    shares = [""] + [f" ({100 * n / before:.3g}%)" if before else "" for before, n in pairwise(counts)]
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": counts,
        "y": [s["step"] for s in steps],
        "text": [f"{n:,}{share}" for n, share in zip(counts, shares, strict=True)],
        "textposition": "auto",
        "marker": {"color": "@faint", "line": {"color": "@accent", "width": 1}},
        "insidetextfont": {"color": "@text"},
        "hovertemplate": "%{y}: %{text}<extra></extra>",
    }
    figure = _figure([trace], "captions", "", 280, showlegend=False, bargap=0.3)
    figure["layout"]["yaxis"] |= {"autorange": "reversed", "ticks": "", "title": {"text": "step", "standoff": 8, "font": {"size": 12}}}
    figure["layout"]["xaxis"]["rangemode"] = "tozero"
    return _chart("funnel", "What became of the captions (in brackets: of those before)", figure)


def _lengths(lengths: Mapping[str, Any]) -> Chart:
    """Return lines of the shares of captions by their length, one for each captioner and perspective."""
    groups = lengths["groups"]
    stages = {g["stage"] for g in groups}
    traces = []
    for n, g in enumerate(groups):
        name = f"{g['stage']}, {g['perspective']}" if len(stages) > 1 else g["perspective"]
        whole = sum(g["counts"]) or 1
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": _centres(lengths, len(g["counts"])),
                "y": [round(100 * c / whole, 4) for c in g["counts"]],
                "customdata": g["counts"],
                "line": {"color": _LINES[n % len(_LINES)], "dash": _DASHES[n // len(_LINES) % len(_DASHES)], "shape": "hvh", "width": 2},
                "hovertemplate": f"{name}: %{{customdata:,}} captions (%{{y:.1f}}%)<br>around %{{x:.4g}} words<extra></extra>",
            }
        )
    title = "Length of captions by perspective" + (" (the last bin holds all longer ones)" if lengths["clipped"] else "")
    return _chart("lengths", title, _figure(traces, "words", "share of captions (%)", 320, showlegend=len(traces) > 1))


def _intervals(n: int, column: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Chart | None:
    """Return means with their intervals, a line for each set; None if fewer than two sets stand in the column."""
    there = [r for r in rows if r["scores"][n] and r["scores"][n]["mean"] is not None]
    if len(there) < 2:
        return None
    values = [r["scores"][n] for r in there]
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [v["mean"] for v in values],
        "y": [f"{r['of']}: {r['set']}" for r in there],
        "marker": {"color": "@accent", "size": 8},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [(v["high"] or v["mean"]) - v["mean"] for v in values],
            "arrayminus": [v["mean"] - (v["low"] or v["mean"]) for v in values],
            "color": "@accent",
            "thickness": 1.5,
            "width": 4,
        },
        "hovertemplate": "%{y}<br>mean %{x:.4f}<extra></extra>",
    }
    name = column["label"] + (f" ({column['mark']})" if column["mark"] else "")
    figure = _figure([trace], f"mean {name}, with its 95% interval", "", 90 + 34 * len(there), showlegend=False)
    figure["layout"]["yaxis"] |= {"autorange": "reversed", "ticks": "", "title": {"text": "set", "standoff": 8, "font": {"size": 12}}}
    return _chart(f"means-{column['name']}{column['mark'] and '-' + column['mark']}", name, figure)


def _density(density: Mapping[str, Any], weights: Mapping[str, float], threshold: float | None, pairs: str) -> Chart:
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
    figure = _figure(traces, UNITS.get(x, x), UNITS.get(y, y), 280, showlegend=len(traces) > 1)
    figure["layout"]["xaxis"]["range"], figure["layout"]["yaxis"]["range"] = spans
    return _chart("density", f"{label(x)} and {label(y)} of {pairs}", figure)


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
            "xaxis": {**axis, "title": {"text": x, "font": {"size": 12}}},
            "yaxis": {**axis, "title": {"text": y, "font": {"size": 12}}},
            **layout,
        },
    }


def as_script(figure: Mapping[str, Any]) -> str:
    """Return a figure as JSON that may stand in a ``<script>`` element, whatever a column is called."""
    text = json.dumps(figure, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
