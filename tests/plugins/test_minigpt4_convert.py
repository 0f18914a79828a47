"""MiniGPT-4's converter: every tensor from each layout of its parts, the tokenizer, and what it refuses."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from synthvlm_minigpt4.convert import Conversion

import tests.tiny_minigpt4 as tiny
from synthvlm.errors import CheckpointError, OptionError
from synthvlm.options import build


class Parts:
    """The published parts in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.language, self.pieces = tiny.language(root / "vicuna")
        self.blip2 = tiny.hf_blip2(root / "blip2")
        self.eva, self.qformer = tiny.lavis(root / "lavis")
        self.vicuna_pth, self.llama2_pth = tiny.pth(root / "vicuna.pth"), tiny.pth(root / "llama2.pth", patches=True)

    def convert(self, target: Path, source: Path | None = None, **options: Any) -> Path:
        values = {"language": str(self.language), "vision": str(self.blip2)} | {k: str(v) for k, v in options.items()}
        build(Conversion, values, "the conversion").convert(str(source or self.vicuna_pth), str(target), lambda line: None)
        return target


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "parts")


@pytest.fixture(scope="module")
def vicuna(shared: Parts) -> Path:
    return shared.convert(shared.root / "converted")


@pytest.fixture(scope="module")
def llama2(shared: Parts) -> Path:
    return shared.convert(shared.root / "converted-llama2", shared.llama2_pth)


def written(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


def load(directory: Path) -> Any:
    from synthvlm_minigpt4.modeling import register
    from transformers import AutoModelForImageTextToText

    register()
    model, told = AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def test_with_vicuna_it_is_blip_2_and_loads_without_this_plugin(vicuna):
    from transformers import Blip2ForConditionalGeneration

    model, told = Blip2ForConditionalGeneration.from_pretrained(vicuna, output_loading_info=True)
    assert not any(told.values()), told
    assert type(model.language_model).__name__ == "LlamaForCausalLM"
    assert type(load(vicuna)) is Blip2ForConditionalGeneration


def test_both_layouts_of_the_eyes_give_the_same(shared, vicuna, llama2, tmp_path):
    for name, source, qformer in (("q", shared.vicuna_pth, {"qformer": shared.qformer}), ("patches", shared.llama2_pth, {})):
        from_lavis = written(shared.convert(tmp_path / name, source, vision=shared.eva, **qformer))
        from_transformers = written(vicuna if name == "q" else llama2)
        assert sorted(from_lavis) == sorted(from_transformers)
        assert all(torch.equal(tensor, from_transformers[n]) for n, tensor in from_lavis.items())


def test_every_tensor_of_the_eyes(vicuna, tmp_path):
    """The names of transformers' layout are written out in `hf_blip2`, from LAVIS's; all but T5's and its projection are there."""
    new = written(vicuna)
    old = written(tiny.hf_blip2(tmp_path))
    assert {n for n in new if n.startswith(("vision_model.", "qformer.", "query_tokens"))} == set(old)
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    assert torch.equal(new["language_projection.weight"], tiny.projection()["llama_proj.weight"])
    assert torch.equal(new["language_projection.bias"], tiny.projection()["llama_proj.bias"])


def test_every_tensor_of_the_language_model(shared, vicuna, llama2):
    vocabulary = shared.pieces.get_piece_size() + 1
    for directory in (vicuna, llama2):
        new = {n.removeprefix("language_model."): t for n, t in written(directory).items() if n.startswith("language_model.")}
        old = tiny.llama(vocabulary)
        assert sorted(new) == sorted(old)  # without the buffer that older files hold
        for name, tensor in old.items():
            grown = name in ("model.embed_tokens.weight", "lm_head.weight")
            assert torch.equal(new[name][:vocabulary] if grown else new[name], tensor)
            if grown:  # the image's token: as likely as <unk>, which is never said
                assert torch.equal(new[name][vocabulary:], tensor[:1])


def test_without_q_former_the_last_norm_does_nothing(shared, llama2):
    new = written(llama2)
    assert not any(n.startswith(("qformer.", "query_tokens")) for n in new)
    assert torch.equal(new["vision_model.post_layernorm.weight"], torch.ones(tiny.WIDTH))
    assert torch.equal(new["vision_model.post_layernorm.bias"], torch.zeros(tiny.WIDTH))
    assert torch.equal(new["language_projection.weight"], tiny.projection(patches=True)["llama_proj.weight"])
    assert type(load(llama2)).__name__ == "PatchesForConditionalGeneration"


def test_special_tokens_are_the_tokenizer_s_not_the_configuration_s(shared, vicuna, llama2):
    from synthvlm_minigpt4.modeling import register
    from transformers import AutoProcessor

    register()
    size = shared.pieces.get_piece_size()
    for directory in (vicuna, llama2):
        text = json.loads((directory / "config.json").read_text())["text_config"]
        assert (text["bos_token_id"], text["eos_token_id"], text["vocab_size"]) == (1, 2, size + 2)
        assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == 2
        tokenizer = AutoProcessor.from_pretrained(directory).tokenizer
        assert tokenizer.convert_ids_to_tokens([0, 1, 2, size, size + 1]) == ["<unk>", "<s>", "</s>", "[PAD]", "<image>"]
        assert load(directory).config.image_token_id == size + 1


def test_the_tokenizer_gives_sentencepiece_s_ids(shared, vicuna):
    from transformers import AutoProcessor

    tokenizer = AutoProcessor.from_pretrained(vicuna).tokenizer
    draw = random.Random(0)
    texts = ["".join(draw.choices("abc deg  \n\thISTU0129.,:#<>/你好人工🐉é", k=draw.randint(0, 40))) for _ in range(300)]
    for text in [*texts, "###Human: <Img>", "</Img> a cat?", "   ", " leading", "trailing "]:
        ids = shared.pieces.encode(text)
        assert tokenizer(text).input_ids == [1, *ids]
        assert tokenizer.decode(ids) == shared.pieces.decode(ids)


def test_a_language_model_without_a_row_for_padding(parts, tmp_path):
    from transformers import AutoProcessor

    language, pieces = tiny.language(tmp_path / "llama", pad_row=False)
    directory = parts.convert(tmp_path / "converted", language=language)
    assert AutoProcessor.from_pretrained(directory).tokenizer.convert_tokens_to_ids("<image>") == pieces.get_piece_size()
    # A row that no file gives a token, as in some Vicuna.
    (parts.language / "added_tokens.json").unlink()
    tokenizer = AutoProcessor.from_pretrained(parts.convert(tmp_path / "nameless")).tokenizer
    size = pieces.get_piece_size()
    assert tokenizer.convert_ids_to_tokens([size, size + 1]) == [f"<unused_{size}>", "<image>"]


def test_blocks_that_blip_2_leaves_are_left(parts, tmp_path, monkeypatch):
    monkeypatch.setattr("synthvlm_minigpt4.eyes._BLOCKS", tiny.BLOCKS - 1)
    new = written(parts.convert(tmp_path / "converted", vision=parts.eva, qformer=parts.qformer))
    assert {n.split(".")[3] for n in new if n.startswith("vision_model.encoder.layers.")} == {"0"}


def test_precision(parts, tmp_path):
    new = written(parts.convert(tmp_path / "converted", dtype="float16"))
    assert {t.dtype for t in new.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"llama_proj.weight": torch.ones(48, 128)}, "should hold llama_proj.weight and llama_proj.bias, and has llama_proj.weight"),
        (tiny.projection() | {"mystery": torch.ones(1)}, "and has .*mystery"),
        ({}, "and has nothing"),
        (tiny.projection() | {"llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1)}, "MiniGPT-v2"),
        ({"llama_proj.weight": torch.ones(48, 99), "llama_proj.bias": torch.ones(48)}, "takes 99 numbers"),
        ({"llama_proj.weight": torch.ones(40, 128), "llama_proj.bias": torch.ones(40)}, r"\(40, 128\) in the checkpoint, \(48, 128\)"),
    ],
)
def test_another_pth_is_refused(parts, tmp_path, model, reason):
    file = tmp_path / "other.pth"
    torch.save({"model": model}, file)
    with pytest.raises(CheckpointError, match=reason):
        parts.convert(tmp_path / "converted", file)
    assert not (tmp_path / "converted").exists()


class Malicious:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('the checkpoint was run')",))


@pytest.mark.parametrize("part", ["pth", "vision", "qformer", "language"])
def test_pickled_code_is_refused_in_every_part(parts, tmp_path, part):
    bad = tmp_path / "bad.pth"
    torch.save({"model": tiny.projection(), "config": Malicious()}, bad)
    options: dict[str, Any] = {"vision": parts.eva, "qformer": parts.qformer}
    if part == "language":
        for file in parts.language.glob("*.bin*"):
            file.unlink()
        (parts.language / "pytorch_model.bin").write_bytes(bad.read_bytes())
    elif part != "pth":
        options[part] = bad
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        parts.convert(tmp_path / "converted", bad if part == "pth" else None, **options)
    assert not (tmp_path / "converted").exists()


def change(file: Path, **changes: Any) -> None:
    """Set weights (None: remove) in a file of PyTorch's."""
    content = torch.load(file, weights_only=True)
    table = content.get("model", content)
    table.update(changes)
    torch.save({"model": {n: t for n, t in table.items() if t is not None}}, file)


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("eva", {"blocks.1.norm2.bias": None}, "lacks 1 of .*: vision_model.encoder.layers.1.layer_norm2.bias"),
        ("eva", {"blocks.0.attn.q_bias": None}, "lacks 1 of .*: vision_model.encoder.layers.0.self_attn.qkv.bias"),
        ("eva", {"blocks.0.gamma_1": torch.ones(1)}, "does not know: vision_model.encoder.layers.0.gamma_1"),
        ("eva", {"cls_token": None}, "no vision model of LAVIS"),
        ("qformer", {"query_tokens": None}, "no Q-Former of LAVIS"),
        ("qformer", {"ln_vision.bias": None}, "lacks 1 of .*: vision_model.post_layernorm.bias"),
        ("qformer", {"Qformer.bert.pooler.dense.weight": torch.ones(1)}, "does not know: qformer.pooler.dense.weight"),
    ],
)
def test_eyes_that_lack_or_have_too_much_are_refused(parts, tmp_path, part, changes, reason):
    change(getattr(parts, part), **changes)
    with pytest.raises(CheckpointError, match=reason):
        parts.convert(tmp_path / "converted", vision=parts.eva, qformer=parts.qformer)


def test_parts_that_do_not_belong_are_refused_each_with_its_way_on(parts, tmp_path):
    target = tmp_path / "converted"
    with pytest.raises(CheckpointError, match="needs a Q-Former") as refused:
        parts.convert(target, vision=parts.eva)
    assert "-o qformer=blip2_pretrained_flant5xxl.pth" in str(refused.value)
    with pytest.raises(CheckpointError, match="has a Q-Former of its own"):
        parts.convert(target, qformer=parts.qformer)
    with pytest.raises(CheckpointError, match="is llama, not BLIP-2"):
        parts.convert(target, vision=parts.language)
    with pytest.raises(CheckpointError, match="is blip-2, not Llama"):
        parts.convert(target, language=parts.blip2)
    with pytest.raises(OptionError, match="needs the option 'language'"):
        build(Conversion, {}, "the conversion of minigpt4")
    (parts.language / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer.model"):
        parts.convert(target)


def test_run_again_from_another_place_it_leaves_what_is_finished(parts, tmp_path):
    target = parts.convert(tmp_path / "converted")
    before = {p.name: p.stat().st_mtime_ns for p in target.iterdir()}
    moved = tmp_path / "moved"
    parts.language.rename(moved)
    parts.convert(target, language=moved)
    assert {p.name: p.stat().st_mtime_ns for p in target.iterdir()} == before
    with pytest.raises(CheckpointError, match="was converted from something else"):
        parts.convert(target, parts.llama2_pth, language=moved)
