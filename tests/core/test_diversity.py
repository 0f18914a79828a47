"""Diversity: near-duplicates by brute force, clusters that take turns, vectors read back as they were written."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synthvlm import embeddings, parts
from synthvlm.compact import compact
from synthvlm.errors import OptionError, RunError
from synthvlm.run import Stage, fetch
from synthvlm.select import select
from tests.fabricate import captions, fabricate_run

faiss = pytest.importorskip("faiss")
DIM = 8


def vector(sample: int, candidate: int) -> np.ndarray:
    """Return a unit vector: samples 3n, 3n + 1 and 3n + 2 have nearly the same images; a multiple of 30 has one of its own."""
    draw = np.random.default_rng([sample // 3, candidate if sample % 30 == 0 else 0])
    found = draw.normal(size=DIM) + (0 if sample % 3 == 0 else 0.02 * np.random.default_rng([7, sample, candidate]).normal(size=DIM))
    return (found / np.linalg.norm(found)).astype(np.float16)


@pytest.fixture
def run(tmp_path):
    return with_vectors(tmp_path / "run", 60)


def with_vectors(root, count, repeat=2):
    """Make a run whose score stage keeps vectors."""
    run = fabricate_run(root, captions(count), repeat, side=16, scores=None, shard_size=7)
    card = {"type": "embedding", "of": "image", "dim": DIM, "dtype": "float16", "normalised": True}
    text = card | {"of": "caption"}
    stage = Stage("clip", "score", [{"name": "clip"}], {"clip": {}}, {"image": "mini", "caption": "samples"}, 7, columns=["clip"])
    stage.cards = {"clip": {"metric": "m"}, "clip_image": card, "clip_text": text}
    stage = run.ensure_stage(stage)
    with run.connect() as db:
        wanted = fetch(db, f"SELECT * FROM {run.wanted_sql(stage)} ORDER BY row, candidate")
    for shard, some in itertools.groupby(wanted, lambda r: r["row"] // 7):
        done = []
        for r in some:
            row = {k: r[k] for k in ("key", "row", "id", "candidate", "sha256")} | {"tries": 1}
            score = 0.5 + (int(r["sha256"][:8], 16) % 1000) / 5000
            text = {"clip_text": vector(int(r["id"]), 9)} if r["candidate"] == 0 else {}
            done.append(row | {"clip": score, "clip_image": vector(int(r["id"]), r["candidate"])} | text)
        parts.commit(run.store, "clip", shard, stage.schema, done)
    return run


def picked(run, name="default"):
    return pq.read_table(run.store.path(f"selections/{name}.parquet")).to_pylist()


def cosine(a, b):
    a, b = (vector(int(x["id"]), x["candidate"]).astype(np.float64) for x in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def greedy(ranked, limit):
    kept: list[dict] = []
    for r in ranked:
        if all(cosine(r, k) < limit for k in kept):
            kept.append(r)
    return kept


def test_of_images_that_are_alike_the_best_is_kept(run):
    stages = [run.stage("clip")]
    select(run, stages, top="all", name="all")
    ranked = picked(run, "all")
    for limit in (0.5, 0.9, 0.97, 0.999, 1.0):
        expected = greedy(ranked, limit)
        said = select(run, stages, top="all", max_similarity=limit)
        assert [r["key"] for r in picked(run)] == [r["key"] for r in expected]
        assert said["diversity"]["near_duplicates"] == len(ranked) - len(expected)
        for top in (1, 5, 17):
            select(run, stages, top=top, max_similarity=limit)
            assert [r["key"] for r in picked(run)] == [r["key"] for r in expected[:top]]
    assert 15 < len(greedy(ranked, 0.97)) < 35
    assert said["diversity"]["vectors"] == "clip.clip_image"


def test_a_merged_run_and_blocks_change_nothing(run, monkeypatch):
    from synthvlm.selecting import diversity

    stages = [run.stage("clip")]
    select(run, stages, top=12, max_similarity=0.97)
    before = run.store.read("selections/default.parquet")
    compact(run, run.stage("clip"))
    assert len(parts.list_parts(run.store, "clip")) == 1
    monkeypatch.setattr(diversity, "BLOCK", 3)
    select(run, stages, top=12, max_similarity=0.97)
    assert run.store.read("selections/default.parquet") == before


def test_clusters_take_turns(run):
    stages = [run.stage("clip")]
    select(run, stages, top="all", name="all")
    said = select(run, stages, top=20, clusters=20)
    clusters = said["diversity"]["clusters"]
    assert 10 <= clusters <= 20
    kept = picked(run)
    assert len(kept) == 20
    # As many near-triples as the clusters tell apart are represented: taking turns reaches further than taking the best.
    plain = picked(run, "all")[:20]
    assert len({int(r["id"]) // 3 for r in kept}) > len({int(r["id"]) // 3 for r in plain})
    assert select(run, stages, top=20, clusters=1)["selected"] == 20
    assert [r["key"] for r in picked(run)] == [r["key"] for r in plain], "one cluster is no restriction"
    again = select(run, stages, top=20, clusters=20, max_similarity=0.999, name="again")
    assert again["selected"] == 20


def test_quotas_of_groups_and_near_duplicates_go_together(tmp_path):
    run = with_vectors(tmp_path / "run", 30)
    stages = [run.stage("clip")]
    select(run, stages, top="all", max_similarity=0.97, name="all")
    expected = [r["key"] for r in picked(run, "all")][:4]
    select(run, stages, top=4, max_similarity=0.97, group_by="source")
    assert [r["key"] for r in picked(run)] == expected


def test_borderline_cosines_are_decided_in_double_precision():
    from synthvlm.selecting.diversity import Nearest, unit

    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(400, 32)).astype(np.float16)
    units = unit(vectors)
    exact = units.astype(np.float64) @ units.astype(np.float64).T / np.outer(*[np.linalg.norm(units.astype(np.float64), axis=1)] * 2)
    for limit in sorted(exact[np.triu_indices(400, 1)])[-300::23]:
        limit -= 1e-9  # a hair below a cosine that there is: single precision cannot tell
        kept: list[int] = []
        for n in range(400):
            if not kept or exact[n, kept].max() < limit:
                kept.append(n)
        search = Nearest(32, float(limit))
        found = [at + k for at in range(0, 400, 64) for k in search.add(units[at : at + 64])]
        assert found == kept


def test_vectors_come_back_in_the_order_asked_for(run, tmp_path):
    stage = run.stage("clip")
    assert embeddings.column_of([stage]) == (stage, "clip_image")
    assert embeddings.column_of([stage], "caption") == (stage, "clip_text")
    with run.connect() as db:
        rows = fetch(db, f"SELECT key, id, candidate, clip_image, clip_text FROM {run.table_sql(stage)} ORDER BY md5(key)")
    found = embeddings.read(run, stage, "clip_image", pa.array([r["key"] for r in rows]), tmp_path / "vectors")
    assert (found.dtype, found.shape) == (np.float16, (120, DIM))
    for r, v in zip(rows, found, strict=True):
        assert (v == vector(int(r["id"]), r["candidate"])).all()
        assert (np.array(r["clip_image"], np.float16) == v).all(), "DuckDB reads the same"
        assert (r["clip_text"] is None) == (r["candidate"] > 0)
    with pytest.raises(RunError, match="60 of 120 images have no vector in stage 'clip'"):
        embeddings.read(run, stage, "clip_text", pa.array([r["key"] for r in rows]), tmp_path / "texts")


def test_what_diversity_needs_is_said(run, tmp_path, refused):
    plain = fabricate_run(tmp_path / "plain", captions(3), side=16)
    assert "no score stage keeps vectors of the images (clip-ssim)" in refused("select", plain.root, "--max-similarity", "0.9")
    with pytest.raises(OptionError, match="is not a cosine"):
        select(run, [run.stage("clip")], max_similarity=1.5)
    with pytest.raises(OptionError, match="is too few"):
        select(run, [run.stage("clip")], clusters=0)


def test_the_clip_scorer_keeps_what_diversity_needs(tmp_path):
    pytest.importorskip("open_clip")
    from synthvlm.pipeline import Run
    from tests.tiny_clip import make_tiny_clip

    fabricate_run(tmp_path / "run", ["a red circle", "a blue square", "a green triangle"], 2, side=32, scores=None, name="mini")
    checkpoint = str(make_tiny_clip(tmp_path / "clip"))
    run = Run.open(tmp_path / "run").using(threads=1).score({"clip": {"checkpoint": checkpoint}})
    run.select(top="all", max_similarity=1.0, weights={"clip": 1.0})
    told = run.results["select"]["diversity"]
    assert (told["vectors"], told["looked_at"]) == ("clip.clip_image", 3)
    assert run.select(top="all", max_similarity=0.01, weights={"clip": 1.0}).results["select"]["selected"] < 3
