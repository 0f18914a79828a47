"""The default rules on captions that people labelled: bad ones of every kind, which must go, and good ones, which must stay."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from synthvlm.pipeline import Run

HERE = Path(__file__).parent
KINDS = {
    "advertisement",
    "boilerplate",
    "address",
    "markup",
    "filename",
    "repetition",
    "jumble",
    "keywords",
    "gibberish",
    "empty",
    "shouting",
    "explicit",
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return (bad rows, good captions, id → decision by the rules of ``synthvlm curate``, by the plain ones)."""
    where = tmp_path_factory.mktemp("labelled")
    with (HERE / "bad.tsv").open(encoding="utf-8", newline="") as lines:
        bad = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    good = (HERE / "good.txt").read_text(encoding="utf-8").splitlines()
    example = json.loads((HERE.parents[1] / "examples/captions.json").read_text())
    records = [{"id": f"bad-{n}", "caption": r["caption"]} for n, r in enumerate(bad)]
    records += [{"id": f"good-{n}", "caption": c} for n, c in enumerate(good)]
    records += [{"id": f"example-{n}", "caption": r["caption"]} for n, r in enumerate(example)]
    (where / "captions.json").write_text(json.dumps(records))
    run = Run.create(where / "run", where / "captions.json")
    run.curate({"text": {}, "language": {}, "ngrams": {}}).curate(name="plain")
    return (
        bad,
        good,
        {name: {r["id"]: r for r in pq.read_table(where / f"run/curation/{name}.parquet").to_pylist()} for name in ("default", "plain")},
    )


def test_the_sets_are_large_and_of_every_kind(judged):
    bad, good, _ = judged
    assert len(bad) >= 150 and len(good) >= 150
    assert {r["kind"] for r in bad} == KINDS
    assert len({r["caption"] for r in bad}) == len(bad) and len(set(good)) == len(good)


def test_at_least_nine_in_ten_bad_captions_go(judged):
    bad, _, decided = judged
    gone = [not decided["default"][f"bad-{n}"]["keep"] for n in range(len(bad))]
    assert sum(gone) / len(bad) >= 0.9, [r["caption"] for r, g in zip(bad, gone, strict=True) if not g]
    by_kind = Counter(r["kind"] for r in bad)
    kept = Counter(r["kind"] for r, g in zip(bad, gone, strict=True) if not g)
    assert all(kept[kind] <= max(1, by_kind[kind] // 4) for kind in by_kind), kept


def test_the_plain_rules_alone_find_what_needs_no_model(judged):
    bad, _, decided = judged
    of_models = {"jumble", "keywords", "gibberish"}
    plain = [n for n, r in enumerate(bad) if r["kind"] not in of_models]
    assert sum(not decided["plain"][f"bad-{n}"]["keep"] for n in plain) / len(plain) >= 0.95


def test_good_captions_stay_in_any_language(judged):
    _, good, decided = judged
    lost = {c: decided["default"][f"good-{n}"]["reasons"] for n, c in enumerate(good) if not decided["default"][f"good-{n}"]["keep"]}
    assert len(lost) <= 0.02 * len(good), lost


def test_the_miniature_world_is_left_alone(judged):
    _, _, decided = judged
    for rows in decided.values():
        examples = [r for name, r in rows.items() if name.startswith("example-")]
        assert len(examples) == 64
        assert all(r["keep"] for r in examples), [r for r in examples if not r["keep"]]


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("cat", "words"),
        ("3f9a8c7be21d4405 on a table", "filenames"),
        ("Only $9.99 per month, cancel anytime", "advertising"),
        ("Royalty free image of a sunset", "boilerplate"),
        ("https://cdn.site.net/images/12345", "urls"),
        ("Contact me at jane.doe@example.com", "emails"),
        ("Call 555-123-4567 to see the house", "phones"),
        ("lunch with @anna_k and friends", "handles"),
        ("<p>A dog on the grass</p>", "markup"),
        ("dog dog dog dog dog dog", "repeated_words"),
        ("THE MOST AMAZING PLACE IN THE WORLD EVER", "capitals"),
        ("a red car on the road a red car on the road a red car on the road", "repeated_trigrams"),
        ("sooooooooooo beautiful beach", "character_run"),
        ("[][][] }{ ~~ <> || ^^ ok then", "letters"),
    ],
)
def test_each_rule_names_its_reason(caption, reason):
    from synthvlm.curating.rules import LIMITS
    from synthvlm.scorers.text import TextRules

    measured = TextRules().load([]).measure([caption])
    least, most = LIMITS[reason]
    value = float(measured[reason][0])
    assert (least is not None and value < least) or (most is not None and value > most), value
