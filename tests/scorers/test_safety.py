"""The image-safety scorer on tiny random classifiers, against transformers called directly; its limit in exports and on the card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import synthvlm_safety
from PIL import Image

from synthvlm.cli import overlay
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.export import export
from synthvlm.options import build
from synthvlm.pipeline import Run
from synthvlm.plugins import Registry
from synthvlm.recipe import builtin
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.scorers import safety
from synthvlm.scorers.safety import ImageSafety
from synthvlm.select import select
from tests.fabricate import captions, fabricate_run


def make_classifier(
    directory: Path, labels: tuple[str, ...] = ("normal", "nsfw"), problem: str = "single_label_classification", seed: int = 0
) -> Path:
    """Write a tiny ViT classifier of random weights."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    names: dict[str, Any] = {"id2label": dict(enumerate(labels)), "label2id": {n: k for k, n in enumerate(labels)}, "problem_type": problem}
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8, **names
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ViTForImageClassification(config)
        torch.nn.init.normal_(model.classifier.weight, std=2.0)
        model.save_pretrained(directory)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("nsfw") / "tiny")


def requests(count: int) -> list[ScoreRequest]:
    pictures = [Image.linear_gradient("L").rotate(37 * n).resize((40 + n, 30)).convert("RGB") for n in range(count)]
    return [ScoreRequest(str(n), 0, "a caption", p) for n, p in enumerate(pictures)]


def by_transformers(directory: Path, batch: list[ScoreRequest], multi: bool = False) -> Any:
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model: Any = AutoModelForImageClassification.from_pretrained(directory).eval()
    processor = AutoImageProcessor.from_pretrained(directory)
    with torch.inference_mode():
        logits = torch.cat([model(**processor(images=r.image, return_tensors="pt")).logits for r in batch])
    return (logits.sigmoid() if multi else logits.softmax(-1)).tolist()


def test_it_is_the_models_probability(directory: Path) -> None:
    scorer = ImageSafety(checkpoint=str(directory)).load(["cpu"])
    batch = requests(9)
    found = [r["nsfw"] for r in scorer.score(batch)]  # type: ignore[index]
    assert found == pytest.approx([p[1] for p in by_transformers(directory, batch)], abs=1e-6) and len(set(found)) > 5
    card = scorer.cards["nsfw"]
    assert card["labels"] == ["normal", "nsfw"] and card["unsafe"] == ["nsfw"] and card["limit"] == [None, 0.5]
    assert card["weights"].startswith("content:") and card["model"] == "ViTForImageClassification"


def test_no_score_depends_on_its_neighbours(directory: Path) -> None:
    scorer = ImageSafety(checkpoint=str(directory)).load(["cpu"])
    batch = requests(9)
    together = list(scorer.score(batch))
    assert [next(iter(scorer.score([r]))) for r in batch] == together == list(scorer.score(batch[::-1]))[::-1]


def test_several_unsafe_labels(tmp_path: Path) -> None:
    labels = ("drawings", "Hentai", "neutral", "PORN", "sexy")
    one = make_classifier(tmp_path / "one", labels)
    batch = requests(4)
    expected = by_transformers(one, batch)
    assert [r["nsfw"] for r in ImageSafety(checkpoint=str(one)).load(["cpu"]).score(batch)] == pytest.approx(
        [p[1] + p[3] + p[4] for p in expected], abs=1e-6
    )  # type: ignore[index]
    named = ImageSafety(checkpoint=str(one), unsafe=["drawings"], column="drawn").load(["cpu"])
    assert [r["drawn"] for r in named.score(batch)] == pytest.approx([p[0] for p in expected], abs=1e-6)  # type: ignore[index]
    many = make_classifier(tmp_path / "many", ("violence", "nudity", "fine"), "multi_label_classification")
    largest = [max(p[0], p[1]) for p in by_transformers(many, batch, multi=True)]
    assert [r["nsfw"] for r in ImageSafety(checkpoint=str(many)).load(["cpu"]).score(batch)] == pytest.approx(largest, abs=1e-6)  # type: ignore[index]


def test_labels_that_say_nothing_must_be_named(tmp_path: Path) -> None:
    plain = make_classifier(tmp_path / "plain", ("LABEL_0", "LABEL_1"))
    with pytest.raises(OptionError, match="no label of the model says") as caught:
        ImageSafety(checkpoint=str(plain)).load(["cpu"])
    assert "LABEL_0, LABEL_1" in str(caught.value.hint)
    with pytest.raises(OptionError, match="has no label 'nsfw'"):
        safety.unsafe_labels({0: "a"}, ["nsfw"])
    assert safety.unsafe_labels({0: "a", 1: "very-NSFW"}, ["Very_nsfw"]) == [1]


def test_what_cannot_be_scored(directory: Path, tmp_path: Path) -> None:
    scorer = ImageSafety(checkpoint=str(directory)).load(["cpu"])
    results = list(scorer.score([ScoreRequest("a", 0, "x", None), *requests(1)]))
    assert isinstance(results[0], Failed) and results[0].error_class == "NoImage" and not isinstance(results[1], Failed)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        ImageSafety(checkpoint=str(tmp_path)).load(["cpu"])
    assert "-o nsfw.checkpoint=DIR" in str(caught.value.hint)


def test_a_checkpoint_is_for_the_user_to_name() -> None:
    registry = Registry()
    registry.add_plugin("safety", synthvlm_safety)
    with pytest.raises(OptionError, match="needs the option 'checkpoint'"):
        build(registry.get("scorer", "nsfw").cls, {}, "nsfw")


def test_with_a_model_at_hand_synth_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(overlay.SAFETY, raising=False)
    assert [s.verb for s in overlay.overlay(builtin("synth"), None, None, {}).steps].count("score") == 1
    monkeypatch.setenv(overlay.SAFETY, "/models/nsfw")
    steps = overlay.overlay(builtin("synth"), None, None, {}).steps
    verbs = [s.verb for s in steps]
    assert verbs.count("score") == 2 and verbs[verbs.index("select") - 1] == "score"
    assert steps[verbs.index("select") - 1].settings.scorers == {"nsfw": {"checkpoint": "/models/nsfw"}}
    asked = overlay.overlay(builtin("synth"), None, None, {"scorers": ("clip", "nsfw"), "options": ("nsfw.checkpoint=/x",)}).steps
    assert [s.verb for s in asked].count("score") == 1


@pytest.mark.slow
def test_unsafe_images_are_kept_out_and_the_card_says_so(directory: Path, tmp_path: Path) -> None:
    fabricate_run(tmp_path / "run", captions(12), 1)
    run = Run.open(tmp_path / "run")
    select(run, [run.stage("clip-ssim")], top="all")
    run.score({"nsfw": {"checkpoint": str(directory), "unsafe": ["normal"]}}, name="nsfw")  # of these random weights nsfw is sure of all
    with run.connect() as db:
        found = dict(db.execute(f"SELECT id, nsfw FROM {run.table_sql(run.stage('nsfw'))}").fetchall())
    middle = sorted(found.values())[6]
    for limit, most in ((None, 0.5), (f"..{middle}", middle), ("off", 2.0)):
        done = export(run, "jsonl", limits={} if limit is None else {"nsfw": limit}, out=tmp_path / f"out{limit}")
        kept = {json.loads(x)["id"] for x in Path(done["file"]).read_text().splitlines()}
        assert kept == {i for i, v in found.items() if v <= most}
        assert done["limited"] == ({} if limit == "off" else {"nsfw": 12 - len(kept)})
        card = (Path(done["out"]) / "README.md").read_text()
        said = {None: "kept if nsfw is at most 0.5", "off": "no limit was set"}.get(limit, "kept if nsfw is at most")
        assert said in card and "| nsfw | nsfw 0.1.0 | tiny | content:" in card
