from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from synthvlm.report import report
from synthvlm.reporting import charts
from synthvlm.reporting.bins import histogram
from synthvlm.reporting.names import formula
from synthvlm.select import select
from tests.fabricate import captions, fabricate_run


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.2, 0.9],
        [1e-12, 2e-12],
        [-3.0, 5.0, 7.5],
        [0.3] * 4,
        [float("nan"), 0.5, 0.25],
        [float("inf"), 1.0],
        [float("nan")],
        [0.7, 0.7 + 1e-16],
        [1e9, 1e9 + 1],
    ],
)
def test_bins_hold_every_finite_value(values: list[float]) -> None:
    with duckdb.connect() as db:
        db.execute("CREATE TABLE scored (x DOUBLE, selected BOOLEAN)")
        db.executemany("INSERT INTO scored VALUES (?, true)", [[v] for v in values])
        bins = histogram(db, "x")
    finite = [v for v in values if abs(v) < float("inf")]
    assert bins["missing"] == len(values) - len(finite)
    if "value" in bins:
        assert max(finite, default=0) - min(finite, default=0) < 1e-9 * max(1, *map(abs, [*finite, 1]))
    else:
        assert sum(bins["all"]) == sum(bins["selected"]) == len(finite) and 1 < len(bins["all"]) <= 22
        assert bins["start"] <= min(finite) and max(finite) < bins["start"] + bins["step"] * len(bins["all"]) + 1e-9


def test_charts_are_figures_that_plotly_takes(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    run = fabricate_run(tmp_path / "run", captions(12), 2, side=256)
    select(run, [run.stage("clip-ssim")], top="20%")
    page = Path(report(run))
    (numbers,) = json.loads(page.with_suffix(".json").read_text())["runs"]
    drawn = [*charts.of_scores(numbers), *(c for c in charts.of_line(numbers) if c["figure"])]
    assert [c["id"] for c in drawn] == ["histogram-clip", "histogram-ssim", "histogram-total", "density", "funnel"]
    for chart in drawn:
        text = json.dumps(chart["figure"])
        assert set(re.findall(r"@\w+", text)) <= set(charts.COLOURS)
        figure: Any = go.Figure(json.loads(re.sub(r"@\w+", "#123456", text)))  # raises on a property that it does not know
        assert figure.layout.xaxis.title.text and figure.layout.yaxis.title.text
    variables = set(re.findall(r"--(\w+):", page.read_text("utf-8")))
    assert {c[1:] for c in charts.COLOURS} <= variables


def test_formula() -> None:
    assert formula({"clip": 1.0, "ssim": 0.5}) == "CLIPScore + 0.5 · SSIMScore"
    assert formula({"aesthetic": 2.0, "clip": -0.25}) == "2 · aesthetic − 0.25 · CLIPScore"
