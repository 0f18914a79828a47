"""Selection against an oracle in plain Python: the best candidate of each caption, then the top by total, ties by id and candidate."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from synthvlm import parts, samples
from synthvlm.errors import OptionError, RunError
from synthvlm.run import RunDirectory, Stage, image_seed, row_key
from synthvlm.select import WEIGHTS, parse_top, select

COLUMNS = ["clip", "clip_cut", "ssim"]


@dataclass(frozen=True)
class Pair:
    """One image with its scores, as the oracle sees it."""

    id: str
    candidate: int
    scores: Mapping[str, float]
    stored: bool = True
    made: bool = True
    scored: bool = True

    def total(self, weights: Mapping[str, float]) -> float:
        return sum(w * self.scores[c] for c, w in weights.items())

    @property
    def counts(self) -> bool:
        return self.made and self.scored


def build(
    root: Path,
    pairs: Sequence[Pair],
    *,
    name: str = "sdxl",
    scores: str = "clip-ssim",
    columns: Sequence[str] = COLUMNS,
    order: Callable[[list[Any]], None] = lambda _: None,
    shard: int = 3,
) -> list[Stage]:
    """Make a run that holds ``pairs``, in parts of a few rows written in some ``order``; return its score stages."""
    ids = list(dict.fromkeys(p.id for p in pairs))
    source = root.parent / f"{root.name}.json"
    source.write_text(json.dumps([{"id": i, "caption": f"caption of {i}"} for i in ids]))
    run = RunDirectory.create(root)
    samples.ingest(run, str(source))
    place = {i: n for n, i in enumerate(ids)}
    images = run.ensure_stage(
        Stage(name, "generate", [{"name": name}], {name: {}}, {"caption": "samples"}, shard, max(p.candidate for p in pairs) + 1)
    )
    scoring = Stage(
        scores,
        "score",
        [{"name": c} for c in columns],
        {s: {} for s in columns},
        {"image": name, "caption": "samples"},
        shard,
        columns=list(columns),
        cards={"clip": {"metric": "m"}},
    )
    scoring = run.ensure_stage(scoring)
    made, scored = [], []
    for p in pairs:
        row = {"row": place[p.id], "id": p.id, "candidate": p.candidate, "tries": 1}
        row["key"] = row_key(images.digest, p.id, f"caption of {p.id}", p.candidate)
        if not p.made:
            made.append(row | {"error": "no", "error_class": "Refused"})
            continue
        sha = hashlib.sha256(f"{p.id}/{p.candidate}".encode()).hexdigest()
        pixels = {
            "seed": image_seed(0, p.id, p.candidate),
            "width": 8,
            "height": 8,
            "sha256": sha,
            "bytes": 4,
            "cut_tokens": 0,
            "stored": p.stored,
        }
        made.append(row | pixels)
        row = row | {"key": row_key(scoring.digest, p.id, f"caption of {p.id}", sha, p.candidate), "sha256": sha}
        scored.append(row | ({c: p.scores[c] for c in columns} if p.scored else {"error": "no", "error_class": "Refused"}))
    for stage, table in ((images, made), (scoring, scored)):
        pieces = [(s, list(g)) for s, g in itertools.groupby(sorted(table, key=lambda r: r["row"]), key=lambda r: r["row"] // shard)]
        order(pieces)
        for number, rows in pieces:
            order(rows)
            pixels = {r["key"]: ("jpg", b"data") for r in rows if r.get("stored")} if stage is images else None
            parts.commit(run.store, stage.name, number, stage.schema, rows, pixels)
    return [scoring]


def oracle(pairs: Iterable[Pair], weights: Mapping[str, float], keep: int, stored: bool = True) -> list[Pair]:
    """Return the selected pairs, in order; ``stored=False``: as if every image's pixels were there."""
    best: dict[str, Pair] = {}
    for p in pairs:
        if p.counts and (p.stored or not stored):
            have = best.get(p.id)
            if have is None or (-p.total(weights), p.candidate) < (-have.total(weights), have.candidate):
                best[p.id] = p
    return sorted(best.values(), key=lambda p: (-p.total(weights), p.id.encode(), p.candidate))[:keep]


def chosen(root: Path, name: str = "default") -> list[dict[str, Any]]:
    return pq.read_table(root / "selections" / f"{name}.parquet").to_pylist()


def pairs_of(seed: int) -> list[Pair]:
    """Draw a run: odd ids, few distinct scores (so that most are ties), some rows failed, some pixels not kept."""
    draw = random.Random(seed)
    names = ["10", "9", "1", "a", "B", "b", "é", "Z", "猫", "it's", "x y", "a/b", "-", "00", "ß", *(f"id{n}" for n in range(25))]
    draw.shuffle(names)
    grid = [0.0, 0.1, 0.3, 0.30000000000000004, 0.5, 1.0] if seed % 2 else [draw.random() for _ in range(50)]
    out = []
    for i in names[: draw.randint(1, len(names))]:
        for c in range(draw.randint(1, 4)):
            chance = draw.random()
            scores = {"clip": draw.choice(grid), "clip_cut": float(draw.random() < 0.2), "ssim": draw.choice(grid)}
            out.append(Pair(i, c, scores, stored=chance > 0.15, made=chance < 0.95, scored=not 0.9 < chance < 0.95))
    return out


@pytest.mark.parametrize("seed", range(7))
def test_against_the_oracle(tmp_path, seed):
    pairs = pairs_of(seed)
    draw = random.Random(-seed)
    stages = build(tmp_path / "run", pairs, order=draw.shuffle)
    run = RunDirectory.open(tmp_path / "run")
    there = [p for p in pairs if p.counts]
    captions = len({p.id for p in there})
    if not any(p.stored for p in there):
        pytest.fail("choose other seeds")
    for weights in (
        None,
        {"clip": 1.0},
        {"ssim": 1.0, "clip": 1.0, "clip_cut": -0.25},
        {"clip": 0.30000000000000004, "ssim": 1e-7},
        {"clip_cut": 3},
    ):
        for top in ("10%", 0.25, 1, "3", 1000, "all"):
            w = dict(weights or WEIGHTS)
            said = select(run, stages, weights=weights, top=top)
            expected = oracle(pairs, w, parse_top(top, captions))
            found = chosen(tmp_path / "run")
            assert [(r["id"], r["candidate"]) for r in found] == [(p.id, p.candidate) for p in expected]
            assert [r["total"] for r in found] == [p.total(w) for p in expected], "the very same numbers"
            assert [{c: r[c] for c in COLUMNS} for r in found] == [p.scores for p in expected]
            assert (said["pairs"], said["captions"], said["selected"]) == (len(there), captions, len(expected))
            assert said["threshold"] == expected[-1].total(w)
            wished = oracle(pairs, w, parse_top(top, captions), stored=False)
            assert said["winners_not_stored"] == sum(not p.stored for p in wished)
            check_terms(said, there, pairs, w, expected)
            check_sets(said, there, pairs, w, expected)


def check_terms(said: dict[str, Any], there: list[Pair], pairs: list[Pair], weights: dict[str, float], expected: list[Pair]) -> None:
    totals = [p.total(weights) for p in there]
    variance = statistics.pvariance(totals)
    assert list(said["terms"]) == list(weights)
    if variance > 1e-18:
        assert sum(t["share"] for t in said["terms"].values()) == pytest.approx(1.0, abs=1e-9)
    for column, weight in weights.items():
        term = said["terms"][column]
        assert term["weight"] == weight
        if variance > 1e-18:
            share = statistics.covariance([weight * p.scores[column] for p in there], totals) / statistics.variance(totals)
            assert term["share"] == pytest.approx(share, abs=1e-9)
        alone = oracle(pairs, {column: 1.0}, parse_top(said["top"], said["captions"]), stored=False)
        both = {(p.id, p.candidate) for p in alone} & {(p.id, p.candidate) for p in expected}
        assert term["alone_overlap"] == pytest.approx(len(both) / len(expected))
        assert term["alone_mean_total"] == pytest.approx(statistics.fmean(p.total(weights) for p in alone))


def check_sets(said: dict[str, Any], there: list[Pair], pairs: list[Pair], weights: dict[str, float], expected: list[Pair]) -> None:
    best = oracle(pairs, weights, len(pairs), stored=False)
    for name, some in (("all candidates", there), ("best of each caption", best), ("selected", expected)):
        means = said["sets"][name]
        assert means["samples"] == len(some)
        assert means["total"] == pytest.approx(statistics.fmean(p.total(weights) for p in some))
        for c in COLUMNS:
            values = [p.scores[c] for p in some]
            assert means[c] == pytest.approx(statistics.fmean(values))
            assert means[f"{c} sd"] == pytest.approx(statistics.stdev(values) if len(values) > 1 else 0.0, abs=1e-9)


def test_ties_go_to_the_smaller_id_then_the_smaller_candidate(tmp_path):
    same = {"clip": 0.5, "clip_cut": 0.0, "ssim": 0.5}
    pairs = [Pair(i, c, same) for i in ("b", "10", "a", "9", "é", "Z") for c in (2, 0, 1)]
    stages = build(tmp_path / "run", pairs)
    select(RunDirectory.open(tmp_path / "run"), stages, top="all")
    assert [(r["id"], r["candidate"]) for r in chosen(tmp_path / "run")] == [("10", 0), ("9", 0), ("Z", 0), ("a", 0), ("b", 0), ("é", 0)]


def test_the_order_of_parts_and_rows_changes_nothing(tmp_path):
    pairs = pairs_of(1)
    files = set()
    for n in range(3):
        root = tmp_path / str(n) / "run"
        root.parent.mkdir()
        stages = build(root, pairs, order=random.Random(n).shuffle)
        select(RunDirectory.open(root), stages, top="30%")
        files.add((root / "selections" / "default.parquet").read_bytes())
    assert len(files) == 1


def test_what_is_written_is_what_is_returned_and_says_how(tmp_path):
    stages = build(tmp_path / "run", pairs_of(3))
    run = RunDirectory.open(tmp_path / "run")
    said = select(run, stages, top=2, weights={"clip": 2.0}, name="mine")
    assert json.loads((tmp_path / "run" / "selections" / "mine.json").read_text()) == said
    assert (said["name"], said["scores"], said["images"], said["weights"], said["top"]) == (
        "mine",
        ["clip-ssim"],
        "sdxl",
        {"clip": 2.0},
        "2",
    )
    assert said["cards"]["clip"] == {"metric": "m"}
    columns = chosen(tmp_path / "run", "mine")[0]
    assert {"key", "row", "id", "candidate", "caption", "seed", "sha256", "clip", "ssim", "total"} <= set(columns)
    assert not {"tar", "offset", "stored"} & set(columns), "pixels move when parts are merged"
    assert not run.store.exists("lock.json")


def test_the_losers_of_another_weighing_were_not_stored(tmp_path):
    def pair(i: str, c: int, clip: float, ssim: float, stored: bool) -> Pair:
        return Pair(i, c, {"clip": clip, "clip_cut": 0.0, "ssim": ssim}, stored=stored)

    pairs = [pair("a", 0, 0.9, 0.1, True), pair("a", 1, 0.1, 0.9, False), pair("b", 0, 0.8, 0.0, False), pair("b", 1, 0.5, 0.5, True)]
    stages = build(tmp_path / "run", pairs)
    run = RunDirectory.open(tmp_path / "run")
    said = select(run, stages, top="all", weights={"ssim": 1.0})
    assert said["winners_not_stored"] == 1, "of a; b's best by ssim stands"
    assert [(r["id"], r["candidate"]) for r in chosen(tmp_path / "run")] == [("b", 1), ("a", 0)]
    assert said["pairs"] == 4, "their scores count all the same"
    assert select(run, stages, top="all", weights={"clip": 1.0})["winners_not_stored"] == 1


def test_a_caption_without_any_stored_image_is_left_out(tmp_path):
    pairs = [
        Pair("a", 0, {"clip": 1.0, "clip_cut": 0.0, "ssim": 1.0}, stored=False),
        Pair("b", 0, {"clip": 0.0, "clip_cut": 0.0, "ssim": 0.0}),
    ]
    stages = build(tmp_path / "run", pairs)
    said = select(RunDirectory.open(tmp_path / "run"), stages, top="all")
    assert (said["captions"], said["selected"], said["winners_not_stored"]) == (2, 1, 1)


def test_without_any_stored_image_there_is_nothing_to_select(tmp_path):
    stages = build(tmp_path / "run", [Pair("a", 0, {"clip": 1.0, "clip_cut": 0.0, "ssim": 1.0}, stored=False)])
    with pytest.raises(RunError, match="no pixels"):
        select(RunDirectory.open(tmp_path / "run"), stages)
    assert not (tmp_path / "run" / "selections").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_never_wins(tmp_path, bad):
    pairs = [Pair("a", 0, {"clip": bad, "clip_cut": 0.0, "ssim": 1.0}), Pair("a", 1, {"clip": 0.1, "clip_cut": 0.0, "ssim": 0.1})]
    stages = build(tmp_path / "run", pairs)
    said = select(RunDirectory.open(tmp_path / "run"), stages, top="all")
    assert [r["candidate"] for r in chosen(tmp_path / "run")] == [1]
    json.dumps(said, allow_nan=False)


def test_one_pair_alone_and_pairs_all_alike_have_no_ranking_to_share(tmp_path):
    same = {"clip": 0.5, "clip_cut": 0.0, "ssim": 0.5}
    for n, pairs in enumerate(([Pair("a", 0, same)], [Pair("a", 0, same), Pair("b", 0, same)])):
        stages = build(tmp_path / f"run{n}", pairs)
        said = select(RunDirectory.open(tmp_path / f"run{n}"), stages)
        assert [t["share"] for t in said["terms"].values()] == [0.0, 0.0]
        assert said["selected"] == 1
        json.dumps(said, allow_nan=False)


@pytest.mark.parametrize(
    ("top", "captions", "kept"),
    [
        ("10%", 1000, 100), ("10%", 5, 1), ("10%", 15, 2), ("10%", 14, 1), ("0.5%", 1000, 5), (0.1, 1000, 100), ("0.1", 64, 6), (1.0, 7, 7), ("1.0", 7, 7), ("100%", 7, 7),
        (1, 7, 1), ("1", 7, 1), (100, 7, 7), ("1000", 2000, 1000), ("all", 7, 7), (" 3 ", 7, 3), ("1e-2", 1000, 10), ("33.3%", 9, 3),
    ],
)  # fmt: skip
def test_top(top, captions, kept):
    assert parse_top(top, captions) == kept


@pytest.mark.parametrize("top", ["", "0", "-1", 0, -0.1, "0%", "101%", "1.5", 1.5, "ten", "10 percent", "nan", "inf", "nan%", "1e3", True])
def test_a_top_that_is_none(top):
    with pytest.raises(OptionError, match="is not a share or a count") as error:
        parse_top(top, 100)
    assert error.value.hint == "write 10%, 0.1, 1000 or all"


def test_errors_name_what_is_there(tmp_path):
    stages = build(tmp_path / "run", [Pair("a", 0, {"clip": 1.0, "clip_cut": 0.0, "ssim": 1.0})])
    run = RunDirectory.open(tmp_path / "run")
    with pytest.raises(RunError, match="no score stage has the column 'siglip'") as error:
        select(run, stages, weights={"siglip": 1.0})
    assert "clip, clip_cut, ssim" in str(error.value)
    with pytest.raises(OptionError, match="the weight of 'clip' is nan"):
        select(run, stages, weights={"clip": math.nan})
    with pytest.raises(OptionError, match="--top 0"):
        select(run, stages, top=0)
    assert not run.store.exists("lock.json")
    assert not (tmp_path / "run" / "selections").exists()


def test_nothing_scored_yet(tmp_path):
    stages = build(tmp_path / "run", [Pair("a", 0, {}, scored=False)])
    with pytest.raises(RunError, match="has no scored pairs yet") as error:
        select(RunDirectory.open(tmp_path / "run"), stages)
    assert error.value.hint == "run: synthvlm score RUN"


def test_score_stages_of_one_image_stage_are_joined_and_others_refused(tmp_path):
    pairs = [
        Pair(i, c, {"clip": n / 10, "clip_cut": 0.0, "ssim": 0.5, "length": -float(n)})
        for n, (i, c) in enumerate(itertools.product("abc", (0, 1)))
    ]
    scoring = build(tmp_path / "run", pairs)
    scoring += build(tmp_path / "run", pairs, scores="length", columns=["length"])
    run = RunDirectory.open(tmp_path / "run")
    said = select(run, scoring, top="all", weights={"clip": 1.0, "length": 10.0})
    assert [(r["id"], r["candidate"], r["length"]) for r in chosen(tmp_path / "run")] == [("a", 0, 0.0), ("b", 0, -2.0), ("c", 0, -4.0)]
    assert said["scores"] == ["clip-ssim", "length"]
    twice = build(tmp_path / "run", pairs, scores="again", columns=["clip"])
    with pytest.raises(RunError, match="column 'clip' is in two score stages, clip-ssim and again"):
        select(run, scoring + twice, top="all")
    other = build(tmp_path / "run", pairs, name="sd3", scores="sd3.length", columns=["length"])
    with pytest.raises(RunError, match="the score stages read different images: sd3, sdxl"):
        select(run, scoring[:1] + other, top="all")


def test_the_same_directory_can_hold_several_selections(tmp_path):
    stages = build(tmp_path / "run", pairs_of(5))
    run = RunDirectory.open(tmp_path / "run")
    for name, top in (("few", 1), ("many", "all")):
        select(run, stages, top=top, name=name)
    assert len(chosen(tmp_path / "run", "few")) == 1
    assert len(chosen(tmp_path / "run", "many")) > 1
    assert run.store.list("selections", ".json") == ["few.json", "many.json"]
