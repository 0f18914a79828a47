"""CLIPScore on a tiny random checkpoint, against open_clip called directly; on the trained miniature one where it is there."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthvlm_scores
from PIL import Image

from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import as_dict, build
from synthvlm.plugins import Registry
from synthvlm.sample import Failed, ScoreRequest
from synthvlm.scorers import ClipScore, ClipScoreHessel, clip, clip_model
from tests.tiny_clip import CONTEXT, make_tiny_clip

CAPTIONS = ["red", "a blue cat", "dog 7", "x", "green hill", "two birds", "snow", "a long, long caption that is cut", "end"]
VECTORS = ("clip_image", "clip_text", "clipscore_hessel_image", "clipscore_hessel_text")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def scorer(directory: Path) -> clip.ClipScorer:
    return ClipScore(checkpoint=str(directory), prefix="").load(["cpu"])


def picture(n: int) -> Image.Image:
    image = Image.merge("RGB", [Image.linear_gradient("L").rotate(40 * n + 90 * c) for c in range(3)])
    return image.resize((60 + 7 * n, 90 - 5 * n))


def requests(captions: list[str] = CAPTIONS) -> list[ScoreRequest]:
    return [ScoreRequest(str(n), 0, caption, picture(n)) for n, caption in enumerate(captions)]


def scores(scorer: clip.ClipScorer, batch: list[ScoreRequest]) -> list[dict[str, Any]]:
    """Return the rows, their vectors as bytes, which can be compared."""
    results = list(scorer.score(batch))
    assert not any(isinstance(r, Failed) for r in results)
    return [{c: v.tobytes() if c in VECTORS else v for c, v in r.items()} for r in results if not isinstance(r, Failed)]


def by_open_clip(directory: Path, batch: list[ScoreRequest], prefix: str) -> list[float]:
    """Return the cosines as open_clip's own documentation computes them."""
    import open_clip
    import torch

    loaded: Any = open_clip.create_model_from_pretrained(f"local-dir:{directory}")
    model, preprocess = loaded
    tokenizer = open_clip.get_tokenizer(f"local-dir:{directory}")
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(r.image) for r in batch]), normalize=True)
        texts = model.encode_text(tokenizer([prefix + str(r.caption) for r in batch]), normalize=True)
    return (images * texts).sum(dim=-1).tolist()


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("prefix", ["", "a photo "])
def test_agrees_with_open_clip(tmp_path: Path, resize_mode: str, prefix: str) -> None:
    directory = make_tiny_clip(tmp_path, seed=1, resize_mode=resize_mode)
    batch = requests()
    cosines = by_open_clip(directory, batch, prefix)
    assert max(cosines) > 0.01
    got = scores(ClipScore(checkpoint=str(directory), prefix=prefix).load(["cpu"]), batch)
    assert [g["clip"] for g in got] == pytest.approx([max(c, 0.0) for c in cosines], abs=1e-6)


def test_negative_cosines_score_zero_and_hessel_is_two_and_a_half_times(directory: Path, tmp_path: Path) -> None:
    batch = requests()
    signs = set()
    for place in (directory, make_tiny_clip(tmp_path, seed=1)):
        cosines = by_open_clip(place, batch, "")
        signs |= {math.copysign(1, c) for c in cosines}
        plain = scores(ClipScore(checkpoint=str(place), prefix="").load(["cpu"]), batch)
        assert all(g["clip"] == 0 for g, c in zip(plain, cosines, strict=True) if c < 0)
        hessel = ClipScoreHessel(checkpoint=str(place), prefix="").load(["cpu"])
        assert [g["clipscore_hessel"] for g in scores(hessel, batch)] == [2.5 * g["clip"] for g in plain]
        assert hessel.cards["clipscore_hessel"]["metric"] == "CLIPScore 2.5 max(cos,0)"
    assert signs == {-1, 1}


def test_score_has_the_same_bits_whatever_its_neighbours(tmp_path: Path) -> None:
    directory = make_tiny_clip(tmp_path, seed=1)
    batch = requests()

    def fresh(**options: Any) -> clip.ClipScorer:  # one that remembers no caption
        return ClipScore(checkpoint=str(directory), prefix="", **options).load(["cpu"])

    together = scores(fresh(), batch)
    assert len({r["clip"] for r in together}) > 5
    assert scores(fresh(), batch[::-1]) == together[::-1]
    assert [scores(fresh(), [r])[0] for r in batch] == together
    assert scores(fresh(), batch + batch[-1:] * 7) == together + together[-1:] * 7
    assert scores(fresh(batch_size=2, threads=3), batch[:2]) + scores(fresh(batch_size=2), batch[2:]) == together


def test_worker_out_of_memory_can_lower_the_batch(directory: Path) -> None:
    scorer = ClipScore(checkpoint=str(directory), prefix="", batch_size=16).load(["cpu"])
    assert (scorer._chunk(0), scorer._chunk(1)) == clip._CHUNKS["cpu"]
    scorer.batch_size = 1
    assert (scorer._chunk(0), scorer._chunk(1)) == (1, 1)
    assert len(scores(scorer, requests())) == len(CAPTIONS)


def test_cut_flag_is_set_from_the_first_token_lost(scorer: clip.ClipScorer) -> None:
    room = CONTEXT - 2  # a token a letter, and the start and the end token
    lengths = [1, room - 1, room, room + 1, 3 * room]
    got = scores(scorer, requests(["a" * n for n in lengths]))
    assert [g["clip_cut"] for g in got] == [False, False, False, True, True]


def test_prefix_takes_its_part_of_the_limit(directory: Path) -> None:
    scorer = ClipScore(checkpoint=str(directory), prefix="abcd ").load(["cpu"])
    room = CONTEXT - 2 - 4
    assert [g["clip_cut"] for g in scores(scorer, requests(["a" * room, "a" * (room + 1)]))] == [False, True]


def test_cut_flag_with_open_clips_own_tokenizer() -> None:
    import open_clip

    tokenizer = open_clip.SimpleTokenizer()
    count = clip_model.token_counter(tokenizer)
    prefix = "A photo depicts "
    assert count(prefix + "cat " * (75 - 3)) == 77 == tokenizer.context_length
    for words, last in ((71, False), (72, False), (73, True)):
        tokens = tokenizer([prefix + "cat " * words])[0]
        assert (int(tokens[-1]) == tokenizer.eot_token_id and count(prefix + "cat " * words) > 77) is last


def test_captions_met_lately_are_not_encoded_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = ClipScore(checkpoint=str(directory), prefix="").load(["cpu"])
    encoded: list[str] = []
    tokenize = scorer._tokenize

    def spy(texts: list[str]) -> Any:
        encoded.extend(texts)
        return tokenize(texts)

    monkeypatch.setattr(scorer, "_tokenize", spy)
    monkeypatch.setattr(clip, "_REMEMBERED", 3)
    first = scores(scorer, requests(["red", "red", "red", "blue"]))
    assert encoded == ["red", "blue"]
    again = scores(scorer, requests(["red", "blue", "red", "blue"]))
    assert encoded == ["red", "blue"]
    assert first[0] == again[0]
    scores(scorer, requests(["red"]))  # blue is now the one not used for longest
    scores(scorer, requests(["one", "two"]))
    encoded.clear()
    scores(scorer, requests(["red", "blue"]))
    assert encoded == ["blue"]
    # More captions in one batch than are remembered: all are scored, each as it is alone.
    alone = [scores(ClipScore(checkpoint=str(directory), prefix="").load(["cpu"]), [r])[0] for r in requests()]
    assert scores(scorer, requests()) == alone
    assert len(scorer._remembered) == 3


def test_missing_image_or_caption_fails_alone(scorer: clip.ClipScorer) -> None:
    image = picture(0)
    no_image, no_caption, blank, good = scorer.score(
        [
            ScoreRequest("a", 0, "red", None),
            ScoreRequest("b", 0, None, image),
            ScoreRequest("c", 0, " \n", image),
            ScoreRequest("d", 0, "red", image),
        ]
    )
    assert isinstance(no_image, Failed)
    assert no_image.error_class == "NoImage"
    assert isinstance(no_caption, Failed)
    assert isinstance(blank, Failed)
    assert no_caption.error_class == blank.error_class == "NoCaption"
    assert not isinstance(good, Failed)
    assert set(good) == {"clip", "clip_cut", "clip_image", "clip_text"}


def test_numbers_that_are_not_finite_fail(directory: Path) -> None:
    import torch

    scorer = ClipScore(checkpoint=str(directory), prefix="").load(["cpu"])
    with torch.no_grad():
        scorer._model.visual.proj.fill_(float("nan"))
    (result,) = scorer.score(requests(["red"]))
    assert isinstance(result, Failed)
    assert result.error_class == "NotFinite"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(tmp_path: Path, dtype: str) -> None:
    directory = make_tiny_clip(tmp_path, seed=1)
    exact = scores(ClipScore(checkpoint=str(directory), prefix="").load(["cpu"]), requests())
    half = build(ClipScore, {"checkpoint": str(directory), "prefix": "", "dtype": dtype}, "clip").load(["cpu"])
    assert [g["clip"] for g in scores(half, requests())] == pytest.approx([g["clip"] for g in exact], abs=0.03)
    assert half.cards["clip"]["dtype"] == dtype


def test_card_tells_what_the_numbers_are(scorer: clip.ClipScorer, directory: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    assert tuple(scorer.columns) == ("clip", "clip_cut")
    assert tuple(scorer.cards) == ("clip", "clip_cut", "clip_image", "clip_text")
    card = json.loads(json.dumps(scorer.cards))["clip"]
    assert (card["metric"], card["prefix"], card["dtype"], card["quick_gelu"]) == ("CLIPScore max(cos,0)", "", "float32", True)
    assert card["text_policy"] == f"cut at {CONTEXT} tokens"
    assert card["preprocessing"] | {"size": 32} == {
        "resize_mode": "shortest",
        "size": 32,
        "interpolation": "bicubic",
        "antialias": "Pillow",
        "mean": [0.48, 0.46, 0.41],
        "std": [0.27, 0.26, 0.28],
    }
    assert str(directory) not in json.dumps(scorer.cards)
    # The card follows the content: another place or file format is the same model, other weights or another prefix are not.
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    torch.save(load_file(copy / "open_clip_model.safetensors"), copy / "open_clip_pytorch_model.bin")
    (copy / "open_clip_model.safetensors").unlink()
    assert ClipScore(checkpoint=str(copy), prefix="").load(["cpu"]).cards == scorer.cards
    other = ClipScore(checkpoint=str(make_tiny_clip(tmp_path / "other", seed=5)), prefix="").load(["cpu"]).cards["clip"]
    assert [k for k in card if card[k] != other[k]] == ["weights"]
    assert ClipScore(checkpoint=str(directory)).load(["cpu"]).cards["clip"]["prefix"] == "A photo depicts "


def test_default_and_presets_are_as_documented() -> None:
    paper = build(ClipScore, {}, "clip", preset="paper")
    assert paper == ClipScore()
    assert (paper.checkpoint, paper.prefix, paper.column) == ("timm/vit_base_patch32_clip_224.openai", "A photo depicts ", "clip")
    assert build(ClipScore, {}, "clip", preset="clip-l336").column == "clip_l336"
    assert build(ClipScore, {"prefix": ""}, "clip").prefix == ""
    assert set(as_dict(ClipScore(), ["runtime"])) == {"batch_size", "dtype", "threads"}


def test_architecture_names_are_refused_with_the_way_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ViT-B-32", "ViT-L-14-336-quickgelu", "RN50"):
        with pytest.raises(OptionError, match=r"ViT-B-32-quickgelu"):
            build(ClipScore, {"checkpoint": name}, "clip")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ViT-mine").mkdir()
    assert ClipScore(checkpoint="ViT-mine").checkpoint == "ViT-mine"


def test_unreachable_hub_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"timm/vit_base_patch32_clip_224\.openai") as caught:
        ClipScore().load(["cpu"])
    assert "checkpoint=DIR" in str(caught.value)


@pytest.mark.parametrize("lacking", ["open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json", "half of the weights"])
def test_incomplete_directories_are_refused(directory: Path, tmp_path: Path, lacking: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    weights = copy / "open_clip_model.safetensors"
    if lacking == "half of the weights":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    for file in copy.glob("tokenizer*" if lacking == "tokenizer.json" else lacking):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"is not an open_clip checkpoint|cannot be loaded") as caught:
        ClipScore(checkpoint=str(copy)).load(["cpu"])
    assert "clip.checkpoint=DIR" in str(caught.value)


def test_plugin_registers_the_scorers() -> None:
    registry = Registry()
    registry.add_plugin("scores", synthvlm_scores)
    assert registry.broken == []
    assert registry.names("scorer") == ["clip", "clipscore-hessel", "ssim", "vqascore"]


def test_importing_the_scorers_imports_no_model_library() -> None:
    code = "import sys, synthvlm_scores; print(*{m.split('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "open_clip", "transformers", "skimage", "numpy", "PIL", "pyarrow", "pydantic"} & set(loaded)


def test_the_trained_miniature_prefers_the_right_caption() -> None:
    weights = Path(synthvlm_scores.__file__).parent / "synthvlm_mini" / "weights" / "clip"
    if not (weights / "open_clip_model.safetensors").exists():
        pytest.skip("the miniature CLIP is not there")
    image = Image.new("RGB", (64, 64), (200, 200, 200))
    image.paste((220, 30, 30), (20, 20, 44, 44))
    captions = ["a red square", "a blue square", "a green square", "a yellow square"]
    got = scores(
        ClipScore(checkpoint=str(weights), prefix="").load(["cpu"]), [ScoreRequest("a", n, c, image) for n, c in enumerate(captions)]
    )
    assert max(got, key=lambda g: g["clip"]) == got[0]
