"""``synthvlm curate`` and the first step of ``synth``: what is told, what is written, what is refused."""

from __future__ import annotations

import json
import signal

import pyarrow.parquet as pq
import pytest

from synthvlm.cli import main

CAPTIONS = [
    "A dog runs on the beach at sunset.",
    "Buy now! Free shipping on all orders",
    "IMG_2034.JPG",
    "a dog runs on the beach at sunset",
    "dog the running grass in is green the",
    "cat",
    "Two birds on a wire above the street.",
]


@pytest.fixture(autouse=True)
def _models(faulty):
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def synthvlm(capfd):
    """Run a command; return (exit code, out, err)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        said = capfd.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


def test_a_dry_run_shows_what_each_rule_would_drop_and_leaves_nothing(synthvlm, write_captions, tmp_path):
    path = write_captions(CAPTIONS)
    code, out, _ = synthvlm("curate", path, "--dry-run")
    assert code == 0
    assert "would keep 2 of 7 captions" in out
    for line in (
        "1 by words (at least 2, at most 400)",
        "1 by filenames (none)",
        "1 by advertising (at most 0.9)",
        "1 by word_perplexity",
        "1 by duplicate",
    ):
        assert line in out
    assert "3: a dog runs on the beach at sunset  ~ A dog runs on the beach at sunset." in out
    assert "--rule words=off" in out
    assert [p.name for p in tmp_path.iterdir()] == ["captions.json"]


def test_curate_then_again_then_otherwise(synthvlm, write_captions, tmp_path):
    run = tmp_path / "run"
    code, out, err = synthvlm("curate", write_captions(CAPTIONS), "--out", run)
    assert code == 0 and "keeps 2 of 7 captions" in err and out == ""
    table = pq.read_table(run / "curation/default.parquet")
    assert table["keep"].to_pylist() == [True, False, False, False, False, False, True]
    assert {"row", "id", "caption_md5", "keep", "reason", "reasons", "like_row", "words", "word_perplexity"} <= set(table.column_names)
    _, _, err = synthvlm("curate", run)
    assert "to make" not in err, "no worker was started"
    _, _, err = synthvlm(
        "curate", run, "--plain", "--rule", "words=1..", "--rule", "advertising=off", "--duplicates", "off", "--as", "loose"
    )
    assert "Curation (loose): keeps 6 of 7 captions" in err
    _, out, _ = synthvlm("status", run)
    assert "curation default: keeps 2 of 7 captions" in out and "curation loose: keeps 6 of 7 captions" in out
    record = json.loads((run / "curation/loose.json").read_text())
    assert record["limits"]["words"] == [1, None]
    assert record["cards"]["words"]["metric"].startswith("words")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("CAPTIONS",), "where to? captions need a run's folder"),
        (("CAPTIONS", "--dry-run", "--rule", "words"), "is not KEY=VALUE"),
        (("CAPTIONS", "--dry-run", "--rule", "words=few"), "is not MIN..MAX"),
        (("CAPTIONS", "--dry-run", "--rule", "language=1..2"), "choose languages with --language"),
        (("CAPTIONS", "--dry-run", "--rule", "charm=1..2"), "no scorer that is asked for measures 'charm'"),
        (("CAPTIONS", "--dry-run", "--scorer", "perplexitty"), "did you mean 'perplexity'?"),
        (("CAPTIONS", "--dry-run", "-o", "judge.model=openai"), "add it with --scorer judge"),
        (("CAPTIONS", "--dry-run", "-o", "words=3"), "which scorer's?"),
        (("CAPTIONS", "--dry-run", "--scorer", "overlap"), "overlap needs the option 'against'"),
        (("CAPTIONS", "--dry-run", "--blocklist", "gone.txt"), "gone.txt cannot be read"),
        (("gone.json", "--dry-run"), "gone.json"),
    ],
)
def test_mistakes_are_a_line_and_a_way_on(synthvlm, write_captions, arguments, says):
    path = write_captions(CAPTIONS)
    code, _, err = synthvlm("curate", *(path if a == "CAPTIONS" else a for a in arguments))
    assert code == 2
    assert says in err


def test_synth_begins_with_it_and_says_what_it_left_out(synthvlm, write_captions, tmp_path):
    path = write_captions(CAPTIONS)
    shared = ("--model", "cheap", "--scorer", "brightness", "--top", "all")
    code, _, err = synthvlm("synth", path, "--out", tmp_path / "run", *shared)
    assert code == 0, err
    assert "Curation (default): keeps 3 of 7 captions" in err and "1 by filenames (none)" in err
    assert "Images (cheap): 3 of 3" in err
    page = (tmp_path / "run/report/report.html").read_text()
    assert "keeps 3 of 7 captions" in page and "IMG_2034.JPG" in page
    assert json.loads((tmp_path / "run/report/report.json").read_text())["runs"][0]["curation"]["kept"] == 3
    code, _, err = synthvlm("synth", path, "--out", tmp_path / "all", "--no-curate", *shared)
    assert code == 0 and "Curation" not in err and "Images (cheap): 7 of 7" in err
    code, _, err = synthvlm("synth", path, "--out", tmp_path / "run", "--no-curate", *shared)
    assert "Images (cheap): 7 of 7" in err, "a run that was curated takes all when told so"


def test_a_line_that_would_keep_nothing_stops_before_spending(synthvlm, write_captions, tmp_path):
    code, _, err = synthvlm(
        "synth", write_captions(["cat", "dog"]), "--out", tmp_path / "run", "--model", "cheap", "--scorer", "brightness"
    )
    assert code == 2
    assert "curation keeps none of the 2 captions: 2 by words" in err and "--no-curate" in err
    assert not (tmp_path / "run/cheap").exists()


def test_decontaminate_lists_what_it_finds(synthvlm, write_captions, tmp_path):
    (tmp_path / "bench.txt").write_text("Two birds on a wire above the street near a shop\n")
    run = tmp_path / "run"
    synthvlm("curate", write_captions(CAPTIONS), "--out", run, "--plain")
    code, out, err = synthvlm("decontaminate", run, "--against", tmp_path / "bench.txt")
    assert code == 0
    assert "1 of 7 captions stand in bench.txt" in out and "Two birds on a wire" in out
    assert "--against" in err
    _, _, err = synthvlm("curate", run, "--plain", "--against", tmp_path / "bench.txt")
    assert "1 by overlap (none)" in err
