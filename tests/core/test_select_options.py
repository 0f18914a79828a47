"""Thresholds, quotas of groups, ranks, sweeps: against brute force, on tables and on runs."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synthvlm import parts
from synthvlm.errors import OptionError, RunError
from synthvlm.pipeline import Run
from synthvlm.run import RunDirectory, fetch, row_key
from synthvlm.select import default_weights, scored_sql, select
from synthvlm.selecting import gather as gathering
from synthvlm.selecting.gather import gather, opened
from synthvlm.selecting.rank import Ranking, make_quotas, parse_top, rank, take_sql
from synthvlm.selecting.sweep import parse_sweep
from tests.core.test_select import build, chosen, pairs_of
from tests.fabricate import captions, fabricate_run

NUMBERS = st.sampled_from([0.0, 0.1, 0.30000000000000004, 0.3, 0.5, 1.0, -1.0, math.nan])
CANDIDATES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 3), st.booleans(), NUMBERS, NUMBERS),
    min_size=1,
    max_size=40,
    unique_by=lambda r: (r[0], r[1]),
)
IDS = ["b", "10", "9", "é", "Z", "a", "00", "aa", "B", "x", "y", "猫", "ß"]


def percent_rank(values: list[float]) -> list[float]:
    return [sum(o < v for o in values) / max(1, len(values) - 1) for v in values]


def brute(
    table: list[Any],
    groups: Sequence[str | None],
    weights: dict[str, float],
    top: Any,
    threshold: float | None,
    normalise: str,
    limits: Any,
) -> set[tuple[int, int]]:
    """Select by plain Python: (row, candidate) of what is kept."""
    finite = [r for r in table if all(math.isfinite(x) for x, c in ((r[3], "clip"), (r[4], "ssim")) if c in weights)]
    values = {"clip": [r[3] for r in finite], "ssim": [r[4] for r in finite]}
    if normalise == "rank":
        values = {c: percent_rank(v) for c, v in values.items() if c in weights}
    totals = [sum(w * values[c][n] for c, w in weights.items()) for n in range(len(finite))]
    counts: dict[str | None, set[int]] = {}
    best: dict[int, tuple[float, int]] = {}
    for r, total in zip(finite, totals, strict=True):
        counts.setdefault(groups[r[0]], set()).add(r[0])
        measured = {"clip": r[3], "ssim": r[4]}
        if not all(
            math.isfinite(measured[c]) and (lo is None or measured[c] >= lo) and (hi is None or measured[c] <= hi)
            for c, (lo, hi) in limits.items()
        ):
            continue
        if r[2] and (r[0] not in best or (-total, r[1]) < (-best[r[0]][0], best[r[0]][1])):
            best[r[0]] = (total, r[1])
    kept: set[tuple[int, int]] = set()
    for group, members in counts.items():
        pairs = [
            (-t, IDS[row].encode(), c, row) for row, (t, c) in best.items() if row in members and (threshold is None or t >= threshold)
        ]
        kept |= {(row, c) for _, _, c, row in sorted(pairs)[: parse_top(top, len(members))]}
        assert group is None or isinstance(group, str)
    return kept


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    CANDIDATES,
    st.lists(st.sampled_from([None, "u", "v"]), min_size=13, max_size=13),
    st.sampled_from([{"clip": 1.0, "ssim": 0.5}, {"ssim": 1.0}, {"clip": -1.0, "ssim": 0.3}]),
    st.sampled_from(["10%", 0.5, 1, 3, "all"]),
    st.sampled_from([None, 0.0, 0.35, 1.2]),
    st.sampled_from(["none", "rank"]),
    st.booleans(),
    st.sampled_from([{}, {"clip": (0.3, None)}, {"ssim": (None, 0.4)}, {"clip": (0.1, 0.5), "ssim": (0.0, None)}]),
)
def test_any_ranking_is_what_brute_force_selects(table, groups, weights, top, threshold, normalise, grouped, limits):
    groups = groups if grouped else [None] * len(IDS)
    ranking = Ranking(weights, top, threshold, "g" if grouped else None, normalise, limits)
    with duckdb.connect() as db:
        columns = list(zip(*table, strict=True))
        schema = pa.schema(
            [("row", pa.int64()), ("candidate", pa.int32()), ("stored", pa.bool_()), ("clip", pa.float64()), ("ssim", pa.float64())]
        )
        db.register("given", pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema))
        db.register("named", pa.table({"row": list(range(len(IDS))), "id": IDS, "grp": pa.array(groups, pa.string())}))
        db.execute("CREATE TABLE gathered AS SELECT * FROM given; CREATE TABLE captions AS SELECT * FROM named")
        rank(db, ranking)
        make_quotas(db, ranking.top, "scored")
        found = (
            db.execute(f"SELECT row, candidate FROM ({take_sql(db, 'standing')})").fetchall()
            if db.execute("FROM scored").fetchall()
            else []
        )
    assert set(found) == brute(table, groups, weights, top, threshold, normalise, limits)
    assert len(found) == len(set(found))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    texts = captions(24)
    meta = {str(n): {"source": ["cc3m", "coco"][n % 2], "a/b": n % 3} for n in range(24) if n != 5}
    return fabricate_run(tmp_path_factory.mktemp("options") / "run", {str(n): t for n, t in enumerate(texts)}, side=16, meta=meta)


def test_a_quota_for_each_group(run):
    stages = [run.stage("clip-ssim")]
    said = select(run, stages, group_by="meta.source", top=3, name="groups")
    assert [(g["group"], g["captions"], g["selected"]) for g in said["groups"]] == [("cc3m", 12, 3), ("coco", 11, 3), (None, 1, 1)]
    kept = pq.read_table(run.store.path("selections/groups.parquet")).to_pylist()
    assert sorted(r["group"] or "" for r in kept) == ["", *["cc3m"] * 3, *["coco"] * 3]
    assert [r["total"] for r in kept] == sorted((r["total"] for r in kept), reverse=True)
    everything = select(run, stages, top="all", name="all")
    assert everything["selected"] == 24
    ranked = pq.read_table(run.store.path("selections/all.parquet")).to_pylist()
    for name in ("cc3m", "coco"):
        of_group = [r["key"] for r in ranked if ["cc3m", "coco"][int(r["id"]) % 2] == name and r["id"] != "5"]
        assert [r["key"] for r in kept if r["group"] == name] == of_group[:3]
    shares = select(run, stages, group_by="a/b", top="50%", name="groups")
    assert [(g["group"], g["captions"], g["selected"]) for g in shares["groups"]] == [("0", 8, 4), ("1", 8, 4), ("2", 7, 4), (None, 1, 1)]
    by_file = select(run, stages, group_by="source", top=2, name="groups")
    assert [(g["group"], g["selected"]) for g in by_file["groups"]] == [("run-captions.json", 2)]
    with pytest.raises(OptionError, match="no caption has the field 'nothing' to group by") as error:
        select(run, stages, group_by="nothing")
    assert error.value.hint == "there are: source, a/b, meta.source"


def test_a_threshold_alone_keeps_all_that_reach_it(run):
    stages = [run.stage("clip-ssim")]
    ranked = select(run, stages, top="all", name="all")
    totals = [r["total"] for r in pq.read_table(run.store.path("selections/all.parquet")).to_pylist()]
    said = select(run, stages, threshold=totals[7], name="threshold")
    assert (said["selected"], said["top"], said["threshold"], said["asked"]["threshold"]) == (8, "all", totals[7], totals[7])
    assert select(run, stages, threshold=totals[7], top=3, name="threshold")["selected"] == 3
    assert said["captions"] == ranked["captions"] == 24
    with pytest.raises(RunError, match=r"no pair reaches a total of 99: the best has 0\.\d+"):
        select(run, stages, threshold=99.0, name="none")
    assert not run.store.exists("selections/none.json")
    with pytest.raises(OptionError, match="--threshold nan"):
        select(run, stages, threshold=math.nan)


def test_pairs_outside_of_a_limit_are_not_chosen(run, synthvlm, refused):
    stages = [run.stage("clip-ssim")]
    select(run, stages, top="all", name="all")
    ranked = pq.read_table(run.store.path("selections/all.parquet")).to_pylist()
    least = sorted(r["clip"] for r in ranked)[12]
    said = select(run, stages, top="50%", limits={"clip": [least, None]}, name="limited")
    assert (said["selected"], said["captions"], said["asked"]["limits"]) == (12, 24, {"clip": [least, None]})
    kept = pq.read_table(run.store.path("selections/limited.parquet")).to_pylist()
    assert all(r["clip"] >= least for r in kept) and said["outside_limits"] > 0
    assert (
        f"pairs could not be chosen: only those with clip at least {least:g} can"
        in synthvlm("select", run.root, "--within", f"clip={least}..").out
    )
    assert "no pair is within the limits (clip at least 99)" in refused("select", run.root, "--within", "clip=99..")
    assert "--within aesthetic: the score stages have no such column" in refused("select", run.root, "--within", "aesthetic=5..")
    assert "is not MIN..MAX" in refused("select", run.root, "--within", "clip=5")


def test_a_sweep_shows_what_selecting_would_give_and_writes_nothing(run, synthvlm):
    before = run.store.list("selections")
    told = json.loads(synthvlm("select", run.root, "--sweep", "weight.ssim=0:1:0.25", "--top", "25%", "--json").out)
    assert run.store.list("selections") == before
    assert [v["value"] for v in told["values"]] == [0, 0.25, 0.5, 0.75, 1]
    sets = []
    for v in told["values"]:
        said = select(run, [run.stage("clip-ssim")], weights={"clip": 1.0, "ssim": v["value"]}, top="25%", name="one")
        assert (v["selected"], v["threshold"], v["clip"], v["ssim"]) == (
            said["selected"],
            said["threshold"],
            said["sets"]["selected"]["clip"],
            said["sets"]["selected"]["ssim"],
        )
        sets.append({r["key"] for r in pq.read_table(run.store.path("selections/one.parquet")).to_pylist()})
    assert [v["overlap"] for v in told["values"]] == [len(s & sets[2]) / 6 for s in sets]
    assert [v["changed"] for v in told["values"]] == [None, *(len(b - a) for a, b in itertools.pairwise(sets))]
    table = synthvlm("select", run.root, "--sweep", "weight.ssim=0:1:0.5").out
    assert "weight.ssim" in table
    assert "100.0%" in table


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("weight.ssim=0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("weight.clip=-1:1:1", [-1, 0, 1]),
        ("weight.a.b=2:2:5", [2]),
    ],
)
def test_values_of_a_sweep(text, values):
    assert parse_sweep(text)[1] == values


@pytest.mark.parametrize(
    "text",
    [
        "ssim=0:1:0.1",
        "weight.ssim",
        "weight.=0:1:1",
        "weight.ssim=0:1",
        "weight.ssim=1:0:0.1",
        "weight.ssim=0:1:0",
        "top.x=0:1:1",
        "weight.ssim=0:1:1e-9",
    ],
)
def test_a_sweep_that_is_none(text):
    with pytest.raises(OptionError, match="--sweep") as error:
        parse_sweep(text)
    assert error.value.hint


def test_commands_refuse_what_cannot_be(run, refused):
    assert "no score stage has the column 'siglip'" in refused("select", run.root, "--sweep", "weight.siglip=0:1:1")
    assert "a sweep compares rankings" in refused("select", run.root, "--sweep", "weight.ssim=0:1:1", "--clusters", "3")
    assert "no score stage keeps vectors" in refused("select", run.root, "--max-similarity", "0.9")


# -- gathering: the same as joining the tables -------------------------------------------------------------------------


def joined(run: RunDirectory, stages: list[Any]) -> list[dict[str, Any]]:
    with run.connect() as db:
        named = ", ".join(f'"{c}"' for s in stages for c in s.columns)
        return fetch(db, f"SELECT row, candidate, stored, {named} FROM {scored_sql(run, stages)} ORDER BY row, candidate")


def commit(run: RunDirectory, stage: Any, finished: list[dict[str, Any]], schema: Any = None) -> None:
    """Commit each row under its own shard."""
    for shard in {r["row"] // stage.shard_size for r in finished}:
        parts.commit(run.store, stage.name, shard, schema or stage.schema, [r for r in finished if r["row"] // stage.shard_size == shard])


def gathered(run: RunDirectory, stages: list[Any]) -> list[dict[str, Any]]:
    with opened(run) as (db, _):
        gather(run, db, stages)
        return fetch(db, "SELECT * FROM gathered ORDER BY row, candidate")


@pytest.mark.parametrize("seed", range(4))
def test_gathered_are_the_tables_joined(tmp_path, seed, monkeypatch):
    """Whatever stands in the parts: failures, rows twice, rows of edited captions, of another identity, parts without columns."""
    draw = random.Random(seed)
    monkeypatch.setattr(gathering, "SAMPLES_PER_FILE", 5)
    monkeypatch.setattr(gathering, "CANDIDATES", 10)
    stages = build(tmp_path / "run", pairs_of(seed), order=draw.shuffle)
    run = RunDirectory.open(tmp_path / "run")
    images, scoring = run.stage("sdxl"), stages[0]
    assert gathered(run, stages) == joined(run, stages)
    with run.connect() as db:
        some = fetch(db, f"SELECT * EXCLUDE (caption) FROM {run.table_sql(images)} WHERE error IS NULL ORDER BY row")
        scored = fetch(db, f"SELECT * EXCLUDE (caption) FROM {run.table_sql(scoring)} WHERE error IS NULL ORDER BY row")
    again = [r | {"stored": False, "tar": None, "offset": None} for r in draw.sample(some, min(4, len(some)))]
    commit(run, images, again)
    commit(run, images, [r | {"key": row_key("another", r["id"])} for r in some[:2]])
    twice = [r | {"clip": 0.77, "tries": 5} for r in draw.sample(scored, min(3, len(scored)))]
    commit(run, scoring, twice)
    failed = [
        {k: r[k] for k in ("key", "row", "id", "candidate", "sha256")} | {"tries": 9, "error": "no", "error_class": "No"}
        for r in scored[:2]
    ]
    commit(run, scoring, failed, parts.scores_schema([]))
    assert gathered(run, stages) == joined(run, stages)
    assert any(r["clip"] == 0.77 for r in gathered(run, stages))
    source = tmp_path / "run.json"
    edited = json.loads(source.read_text())
    for record in edited[::3]:
        record["caption"] += ", edited"
    source.write_text(json.dumps(edited))
    before = len(joined(run, stages))
    from synthvlm.samples import ingest

    ingest(run, str(source))
    assert gathered(run, stages) == joined(run, stages)
    assert len(joined(run, stages)) < before


def test_what_a_text_scorer_measured_can_be_weighed(tmp_path, write_captions, faulty):
    run = Run.create(tmp_path / "run", write_captions(["a b", "a b c d e", "a"])).generate("cheap", repeat=2).score({"brightness": {}})
    run.curate({"text": {}})
    stages = [run.stage("brightness"), run.stage("text")]
    said = run.select(weights={"words": 1.0}, scores=["brightness", "text"], top="all").results["select"]
    assert [r["id"] for r in chosen(tmp_path / "run")] == ["1", "0", "2"]
    assert said["scores"] == ["brightness", "text"]
    assert len(gathered(run, stages)) == 6
    with pytest.raises(RunError, match="no score stage reads images"):
        select(run, [run.stage("text")], weights={"words": 1.0})


def test_default_weights_are_of_the_terms_that_there_are():
    assert default_weights(["clip_mean", "clip_min", "ssim"]) == {"clip_mean": 1.0, "ssim": 0.5}
    assert default_weights(["clip", "clip_mean"]) == {"clip": 1.0}
    assert default_weights(["ssim", "x"]) == {"ssim": 0.5}
    assert default_weights(["x"]) == {"clip": 1.0, "ssim": 0.5}
