"""Scorers of captions that run a model, and pairs of captions and raw images."""

from __future__ import annotations

import json
import math

import pyarrow.parquet as pq
import pytest
from PIL import Image

from synthvlm.errors import InputError, OptionError
from synthvlm.pipeline import Run
from synthvlm.sample import ScoreRequest
from synthvlm.scorers.judge import Judge, parse
from tests.engines.stand_in_server import Server, answer, prompt_of

CAPTIONS = [
    "A dog on the grass near a house.",
    "Some nonsense that says nothing.",
    "An odd text about colours.",
    "A red bus in the street.",
    "Buy now",
]


def decided(run):
    return {r["id"]: r for r in pq.read_table(run.store.url("curation/default.parquet")).to_pylist()}


@pytest.fixture
def server():
    """Answer as a judge would: by what stands in the prompt."""

    def behave(body, _):
        prompt = prompt_of(body)
        if "nonsense" in prompt:
            return answer('{"verdict": "drop", "reason": "nothing to see"}')
        if "odd text" in prompt:
            return answer('{"verdict": "%s", "reason": "none"}' % ("keep" if "painter" in prompt else "drop"))
        if "red bus" in prompt:
            return answer("I would say that it is fine.")
        return answer('Sure: {"verdict": "keep", "reason": "none"}')

    with Server(behave) as running:
        yield running


def judge_of(server, monkeypatch, **more):
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    return {"model": "openai", "checkpoint": "m", "base_url": server.url, **more}


def test_a_judge_drops_and_what_it_cannot_say_is_counted(tmp_path, write_captions, server, monkeypatch):
    judge = judge_of(server, monkeypatch, prompts=["quality", "visible"])
    run = Run.create(tmp_path / "run", write_captions(CAPTIONS)).curate({"text": {}, "judge": judge})
    rows = decided(run)
    assert {i: r["reason"] for i, r in rows.items()} == {"0": None, "1": "judge", "2": None, "3": None, "4": "advertising"}
    assert (rows["1"]["judge"], rows["2"]["judge"], rows["3"]["judge"]) == (0.0, 0.5, None)
    summary = run.results["curate"]
    assert summary["judge"] == {"asked": 4, "unparsable": 2, "disagree": 1, "reasons": {"nothing to see": 1}}
    asked = [prompt_of(b) for b in server.bodies]
    assert not any("Buy now" in p for p in asked), "what the rules drop is not asked about"
    assert all(b["response_format"]["json_schema"]["schema"]["properties"]["verdict"]["enum"] == ["keep", "drop"] for b in server.bodies)
    assert all("image_url" not in json.dumps(b) for b in server.bodies)
    before = len(server.bodies)
    run.curate({"text": {}, "judge": judge}, limits={"judge": [0.6, None]})
    assert len(server.bodies) == before, "nothing is asked twice"
    assert decided(run)["2"]["reason"] == "judge"


def test_a_judge_is_known_by_what_it_asks(tmp_path):
    mine = tmp_path / "quality.yaml"
    mine.write_text("prompt: Is {{ caption }} any good?\n")
    assert Judge(prompts=["quality"]).prompts != Judge(prompts=[str(mine)]).prompts
    assert Judge(prompts=Judge(prompts=["quality"]).prompts).prompts == Judge(prompts=["quality"]).prompts
    mine.write_text("prompt: Is it any good?\n")
    with pytest.raises(InputError, match="does not quote the caption"):
        Judge(prompts=[str(mine)])
    with pytest.raises(OptionError, match="asks nothing"):
        Judge(prompts=[])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"verdict": "keep", "reason": "none"}', (True, "none")),
        ('```json\n{"verdict": "DROP", "reason": "Grammar"}\n```', (False, "grammar")),
        ('{"verdict": "drop", "reason": "because"}', (False, "none")),
        ('{"thought": {}} {"verdict": "drop"}', (False, "none")),
        ("keep", None),
        ('{"verdict": "maybe"}', None),
        ('{"verdict": ', None),
        ("", None),
    ],
)
def test_answers_are_read(text, expected):
    assert parse(text) == expected


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """Make a tiny random GPT-2 with a byte-level tokenizer."""
    pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    where = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CAPTIONS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    fast.save_pretrained(where)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(fast),
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=fast.bos_token_id,
        eos_token_id=fast.eos_token_id,
        initializer_range=0.5,
    )
    GPT2LMHeadModel(config).eval().save_pretrained(where)
    return where


def test_perplexity_is_that_of_the_models_own_loss(gpt2):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from synthvlm.scorers.perplexity import Perplexity

    scorer = Perplexity(checkpoint=str(gpt2)).load(["cpu"])
    batch = [ScoreRequest(str(n), 0, c, None) for n, c in enumerate(CAPTIONS)]
    found = [r["perplexity"] for r in scorer.score(batch)]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(gpt2), AutoTokenizer.from_pretrained(gpt2)
    for caption, value in zip(CAPTIONS, found, strict=True):
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(caption)["input_ids"], tokenizer.eos_token_id]])
        with torch.inference_mode():
            assert math.isclose(math.exp(model(ids, labels=ids).loss), value, rel_tol=1e-4)
    alone = [next(iter(scorer.score([r])))["perplexity"] for r in batch]
    assert alone == pytest.approx(found, rel=1e-5), "neighbours do not matter"


def test_perplexity_decides_on_a_run(tmp_path, write_captions, gpt2):
    run = Run.create(tmp_path / "run", write_captions(CAPTIONS))
    run.curate({"text": {}, "perplexity": {"checkpoint": str(gpt2)}}, limits={"perplexity": "off"})
    values = sorted(r["perplexity"] for r in rows_of(run) if r["perplexity"] is not None)
    assert len(values) == 4, "only of what the rules leave"
    run.curate({"text": {}, "perplexity": {"checkpoint": str(gpt2)}}, limits={"perplexity": [None, values[1]]})
    assert run.results["curate"]["kept"] == 2


def rows_of(run):
    from synthvlm.run import fetch

    stage = next(run.stage(n) for n in run.stage_names() if n.startswith("perplexity"))
    with run.connect() as db:
        return fetch(db, f"SELECT * FROM {run.table_sql(stage)}")


def test_of_pairs_with_raw_images_the_best_fraction_stays(tmp_path):
    pytest.importorskip("open_clip")
    from tests.tiny_clip import make_tiny_clip

    clip = make_tiny_clip(tmp_path / "clip")
    records = []
    for n in range(10):
        Image.new("RGB", (40, 40), (25 * n, 255 - 25 * n, 90)).save(tmp_path / f"{n}.png")
        records.append({"id": n, "image": f"{n}.png", "caption": f"a scene with {n} things in it"})
    (tmp_path / "pairs.json").write_text(json.dumps(records))
    run = Run.create(tmp_path / "run", images=tmp_path / "pairs.json").curate({"text": {}, "clip": {"checkpoint": str(clip)}}, pairs="40%")
    stage = next(run.stage(n) for n in run.stage_names() if n.startswith("raw.clip"))
    assert stage.reads == {"image": "samples", "caption": "samples"}
    from synthvlm.run import fetch

    with run.connect() as db:
        scores = {r["id"]: r["clip"] for r in fetch(db, f"SELECT id, clip FROM {run.table_sql(stage)}")}
    assert len(scores) == 10
    best = sorted(scores, key=lambda i: (-scores[i], int(i)))[:4]
    assert {i for i, r in decided(run).items() if r["keep"]} == set(best)
    assert {r["reason"] for r in decided(run).values()} == {None, "clip"}
    assert run._stages("score") == [], "scores of raw pairs are no scores of made images"
