"""What stands in benchmark files is found, in captions and in images; personal data is found too."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from synthvlm.curating.decontamination import decontaminate
from synthvlm.errors import InputError
from synthvlm.pipeline import Run
from synthvlm.sample import ScoreRequest
from synthvlm.scorers.decontamination import Overlap, PerceptualHash, perceptual_hash
from synthvlm.scorers.personal import Personal
from tests.fabricate import captions, fabricate_run

QUESTION = "Which of the animals in the picture is standing behind the wooden fence next to the barn?"


def picture(seed):
    """Return a picture with structure: smooth random shapes."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((320, 240), Image.Resampling.BICUBIC)


@pytest.fixture
def benchmark(tmp_path):
    """Make benchmark files of every form, with texts and images."""
    where = tmp_path / "benchmark"
    where.mkdir()
    (where / "mme.json").write_text(json.dumps({"questions": [{"text": QUESTION, "n": 3}]}))
    (where / "pope.jsonl").write_text(json.dumps({"text": "Is there a snowboard in the image of the two men?"}) + "\n")
    (where / "notes.txt").write_text("A man in a blue shirt repairs an old clock in his shop.\n\ntwo words\n")
    pq.write_table(pa.table({"question": ["How many zebras drink at the water hole in the evening light?"], "n": [1]}), where / "q.parquet")
    encoded = io.BytesIO()
    picture(1).save(encoded, "JPEG")
    with (where / "mmbench.tsv").open("w", newline="") as out:
        table = csv.writer(out, delimiter="\t")
        table.writerows(
            [
                ["index", "question", "image"],
                [1, "What is the colour of the largest boat in this small harbour?", base64.b64encode(encoded.getvalue()).decode()],
            ]
        )
    picture(2).save(where / "two.png")
    return where


def test_captions_that_share_eight_words_are_found(benchmark):
    captions = [
        "One of the animals in the picture is standing behind the wooden fence.",
        "IS THERE A SNOWBOARD - in the image of the two men",
        "A man in a blue shirt repairs a bicycle.",
        "how many zebras drink at the water hole in the evening",
        "the colour of the largest boat in this small harbour",
        "two words",
        "words two",
        "",
    ]
    scorer = Overlap(against=str(benchmark)).load([])
    found = list(scorer.measure(captions)["overlap"])
    assert [v > 0 for v in found] == [True, True, False, True, True, True, False, False]
    assert found[1] == 1.0
    assert scorer.cards["overlap"]["texts"] >= 6
    with pytest.raises(InputError, match="no text in it"):
        Overlap(against=str(benchmark / "two.png")).load([])
    (benchmark / "bad.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"bad\.jsonl cannot be read"):
        Overlap(against=str(benchmark)).load([])


def test_images_are_found_however_they_were_scaled_saved_or_mirrored(benchmark):
    scorer = PerceptualHash(against=str(benchmark)).load([])
    data = io.BytesIO()
    picture(1).resize((200, 150)).save(data, "JPEG", quality=40)
    same = [
        picture(1),
        Image.open(data),
        ImageOps.mirror(picture(2)),
        ImageEnhance.Brightness(picture(2)).enhance(1.2),
        picture(2).filter(ImageFilter.GaussianBlur(2)),
    ]
    others = [picture(n) for n in range(10, 30)] + [Image.new("RGB", (64, 64), "gray")]
    near = [r["phash_distance"] for r in scorer.score([ScoreRequest("x", 0, None, i) for i in same])]
    far = [r["phash_distance"] for r in scorer.score([ScoreRequest("x", 0, None, i) for i in others])]
    assert max(near) <= 8 < min(far), (near, far)
    assert perceptual_hash(picture(1)) == perceptual_hash(picture(1).convert("L"))


def test_a_run_is_compared_and_curated_against_it(tmp_path, benchmark):
    records = []
    for n, seed in enumerate((1, 40, 2)):
        picture(seed).resize((160, 120)).save(tmp_path / f"{n}.jpg")
        caption = (
            "A man in a blue shirt repairs an old clock by the window." if n == 1 else f"A picture of {n + 3} soft colours side by side."
        )
        records.append({"id": n, "image": f"{n}.jpg", "caption": caption})
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    run = Run.create(tmp_path / "run", images=tmp_path / "pairs.json")
    result = decontaminate(run, str(benchmark), images="samples")
    assert (result["compared"], result["hits"]) == ({"caption": 3, "image": 3}, {"caption": 1, "image": 2})
    hits = pq.read_table(tmp_path / "run/decontamination/default.parquet").to_pylist()
    assert [(h["what"], h["id"]) for h in hits] == [("caption", "1"), ("image", "0"), ("image", "2")]
    run.curate({"text": {}, "overlap": {"against": str(benchmark)}, "phash": {"against": str(benchmark)}})
    reasons = {r["id"]: r["reason"] for r in pq.read_table(tmp_path / "run/curation/default.parquet").to_pylist()}
    assert reasons == {"0": "phash_distance", "1": "overlap", "2": "phash_distance"}


def test_made_images_that_stand_in_it_are_neither_chosen_nor_exported(tmp_path):
    fabricate_run(tmp_path / "run", captions(8), repeat=1)
    run = Run.open(tmp_path / "run")
    folder = Path(run.select(top="all").export("jsonl").results["export"]["jsonl"]["out"])
    benchmark = tmp_path / "benchmark"
    shutil.copytree(folder / "images", benchmark, ignore=lambda _, names: sorted(names)[2:])
    found = decontaminate(run, str(benchmark), images=run.image_stage())["hits"]["image"]
    assert 2 <= found < 8
    hits = {h["id"] for h in pq.read_table(tmp_path / "run/decontamination/default.parquet").to_pylist()}
    kept = run.export("jsonl", out=tmp_path / "kept").results["export"]["jsonl"]
    assert kept["limited"] == {"phash_distance": found}, "of what was selected before"
    assert "Benchmarks: decontaminated (phash_distance)" in (tmp_path / "kept/README.md").read_text()
    said = run.select(top="all").results["select"]
    chosen = {r["id"] for r in pq.read_table(tmp_path / "run/selections/default.parquet").to_pylist()}
    assert (said["selected"], said["outside_limits"]) == (8 - found, found) and not chosen & hits
    assert run.select(top="all", limits={"phash_distance": "off"}).results["select"]["selected"] == 8


@pytest.mark.parametrize(
    ("caption", "count"),
    [
        ("Write to jane.doe@example.com for more", 1),
        ("card 4111 1111 1111 1111 on a table", 1),
        ("card 4111 1111 1111 1112 on a table", 0),
        ("IBAN DE89 3704 0044 0532 0130 00 on an invoice", 1),
        ("IBAN DE89 3704 0044 0532 0130 01 on an invoice", 0),
        ("his number 078-05-1120 in red", 1),
        ("a server at 192.168.12.7 in a rack", 1),
        ("lives at 742 Evergreen Lane, Springfield, OR 97403", 1),
        ("A house at the corner of two streets, number 12", 0),
        ("the year 1984 on a poster", 0),
        ("Mona Lisa in a museum", 0),
    ],
)
def test_personal_data_is_counted(caption, count):
    assert list(Personal().load([]).measure([caption])["personal"]) == [count]
