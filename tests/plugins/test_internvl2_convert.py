"""InternVL2's converter: every tensor, the whole model's numbers, the tokenizer; what it refuses; killed and run again."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from synthvlm_internvl2.conversation import TEMPLATE, conversation
from synthvlm_internvl2.convert import Conversion

import tests.tiny_internvl2 as tiny
from synthvlm.errors import CheckpointError

LANGUAGES = {"internlm2": tiny.INTERNLM2, "qwen2": tiny.QWEN2}


def quiet(line: str) -> None:
    pass


def convert(source: Path, target: Path, **options: Any) -> Path:
    Conversion(**options).convert(str(source), str(target), quiet)
    return target


def config_of(source: Path) -> dict[str, Any]:
    return json.loads((source / "config.json").read_text())


def written(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module", params=LANGUAGES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a published checkpoint and what was made of it."""
    root = tmp_path_factory.mktemp(request.param)
    source = tiny.published(root / "published", LANGUAGES[request.param])
    return source, convert(source, root / "converted")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny.published(tmp_path / "published")


def load(directory: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    model, told = AutoModelForImageTextToText.from_pretrained(directory, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def test_it_loads_by_name_with_no_weight_missing_or_left_over(pair):
    assert type(load(pair[1])).__name__ == "InternVLForConditionalGeneration"


def test_weights_have_the_names_of_published_checkpoints(pair, tmp_path):
    load(pair[1]).save_pretrained(tmp_path)
    assert sorted(written(pair[1])) == sorted(written(tmp_path))


def test_every_tensor_of_the_vision_model_and_the_projector(pair):
    old, new = tiny.weights(config_of(pair[0])), written(pair[1])
    for published, here in {"class_embedding": "cls_token", "position_embedding": "position_embeddings"}.items():
        assert torch.equal(new[f"vision_tower.embeddings.{here}"], old[f"vision_model.embeddings.{published}"])
    for kind in ("weight", "bias"):
        assert torch.equal(
            new[f"vision_tower.embeddings.patch_embeddings.projection.{kind}"], old[f"vision_model.embeddings.patch_embedding.{kind}"]
        )
        for number, name in {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}.items():
            assert torch.equal(new[f"multi_modal_projector.{name}.{kind}"], old[f"mlp1.{number}.{kind}"])
    for n in range(tiny.VISION["num_hidden_layers"]):
        was, now = f"vision_model.encoder.layers.{n}", f"vision_tower.encoder.layer.{n}"
        assert torch.equal(new[f"{now}.lambda_1"], old[f"{was}.ls1"])
        assert torch.equal(new[f"{now}.lambda_2"], old[f"{was}.ls2"])
        for kind in ("weight", "bias"):
            for place, letter in enumerate("qkv"):
                rows = slice(place * 32, place * 32 + 32)
                assert torch.equal(new[f"{now}.attention.{letter}_proj.{kind}"], old[f"{was}.attn.qkv.{kind}"][rows])
            names = {
                "attention.projection_layer": "attn.proj",
                "layernorm_before": "norm1",
                "layernorm_after": "norm2",
                "mlp.fc1": "mlp.fc1",
            }
            for here, published in {**names, "mlp.fc2": "mlp.fc2"}.items():
                assert torch.equal(new[f"{now}.{here}.{kind}"], old[f"{was}.{published}.{kind}"])


def test_every_tensor_of_the_language_model(pair):
    config = config_of(pair[0])
    old, new = tiny.weights(config), written(pair[1])
    heads, groups = config["llm_config"]["num_attention_heads"], config["llm_config"]["num_key_value_heads"]
    size, each = config["llm_config"]["hidden_size"] // heads, heads // groups
    if config["llm_config"]["model_type"] == "qwen2":
        for name, tensor in old.items():
            if name.startswith("language_model."):
                assert torch.equal(new[name], tensor)
        return
    assert torch.equal(new["language_model.model.embed_tokens.weight"], old["language_model.model.tok_embeddings.weight"])
    assert torch.equal(new["language_model.lm_head.weight"], old["language_model.output.weight"])
    assert torch.equal(new["language_model.model.norm.weight"], old["language_model.model.norm.weight"])
    for n in range(config["llm_config"]["num_hidden_layers"]):
        at = f"language_model.model.layers.{n}"
        # Head by head: a group is its queries, then its key, then its value.
        packed = [old[f"{at}.attention.wqkv.weight"][row * size : (row + 1) * size] for row in range(heads + 2 * groups)]
        parts: dict[str, list[torch.Tensor]] = {"q": [], "k": [], "v": []}
        for row, block in enumerate(packed):
            place = row % (each + 2)
            parts["q" if place < each else "k" if place == each else "v"].append(block)
        for letter, blocks in parts.items():
            assert torch.equal(new[f"{at}.self_attn.{letter}_proj.weight"], torch.cat(blocks))
        names = {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2"}
        names |= {"mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
        for here, published in names.items():
            assert torch.equal(new[f"{at}.{here}.weight"], old[f"{at}.{published}.weight"])


def test_the_model_computes_what_the_authors_code_does(pair):
    config, model = config_of(pair[0]), load(pair[1])
    weights = tiny.weights(config)
    pixels = torch.randn(3, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(1))
    image = model.config.image_token_id
    ids = torch.tensor([[1, 7, *[image] * 12, 9, 30, 200]])
    with torch.no_grad():
        seen = model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
        assert torch.allclose(seen.reshape(-1, seen.shape[-1]), tiny.image_features(weights, pixels).flatten(0, 1), atol=1e-5)
        if config["llm_config"]["model_type"] == "qwen2":
            return  # transformers' own class with its weights as they were
        embedded = weights["language_model.model.tok_embeddings.weight"][ids].clone()
        embedded[ids == image] = tiny.image_features(weights, pixels).flatten(0, 1)
        expected = tiny.logits(weights, embedded)
        assert torch.allclose(model(input_ids=ids, pixel_values=pixels).logits, expected, atol=1e-4)
        assert expected.std() > 0.1


def test_the_tokenizer_gives_sentencepiece_s_ids(tmp_path_factory):
    import sentencepiece
    from transformers import AutoProcessor

    root = tmp_path_factory.mktemp("tokens")
    source = tiny.published(root / "published")
    tokenizer = AutoProcessor.from_pretrained(convert(source, root / "converted")).tokenizer
    reference = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    draw = random.Random(0)
    texts = ["".join(draw.choices("abc deg  \n\thISTU0129.,:#<>/你好人工🐉é", k=draw.randint(0, 40))) for _ in range(300)]
    for text in [*texts, "a photo of a cat", "   ", " leading", "trailing "]:
        assert tokenizer(text).input_ids == [1, *reference.encode(text)]
        assert tokenizer.decode(reference.encode(text)) == reference.decode(reference.encode(text))
    added = json.loads((source / "added_tokens.json").read_text())
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in added} == added
    # Around a special token each piece is encoded as if it stood alone.
    pieces = reference.encode("a cat"), reference.encode(" sat\n")
    assert tokenizer("a cat<|im_end|> sat\n").input_ids == [1, *pieces[0], added["<|im_end|>"], *pieces[1]]


def test_the_processor_and_the_ends_of_answers(pair):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(pair[1])
    assert (processor.image_seq_length, processor.image_processor.max_patches) == (tiny.TOKENS, 12)
    assert tuple(processor.image_processor.image_mean) == (0.485, 0.456, 0.406)
    assert processor.image_token_id == json.loads((pair[0] / "added_tokens.json").read_text())["<IMG_CONTEXT>"]
    ends = json.loads((pair[1] / "generation_config.json").read_text())["eos_token_id"]
    assert processor.tokenizer.convert_ids_to_tokens(ends)[0] == "<|im_end|>"
    assert processor.tokenizer.chat_template == processor.chat_template == TEMPLATE
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    for images in (0, 1, 2):
        messages = [{"role": "user", "content": [content[0]] * images + [content[1]]}]
        # Servers tokenise what a template gives without adding anything; only InternLM2 begins with a token of its own.
        bos = processor.tokenizer.bos_token or ""
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == bos + conversation("What is it?", images)
    assert processor.tokenizer.bos_token == ("<s>" if "InternLM2" in str(pair[0].joinpath("config.json").read_text()) else None)


def test_tied_embeddings_have_one_place(tmp_path):
    source = tiny.published(tmp_path / "published", {**tiny.QWEN2, "tie_word_embeddings": True})
    for lm_head in (True, False):
        weights = tiny.weights(config_of(source))
        weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"].clone()
        if not lm_head:
            del weights["language_model.lm_head.weight"]
        tiny.write_shards(source, weights, 1)
        target = convert(source, tmp_path / str(lm_head))
        assert "language_model.lm_head.weight" not in written(target)
        model = load(target)
        assert torch.equal(model.lm_head.weight, weights["language_model.model.embed_tokens.weight"])


def test_precision_is_kept_or_chosen(tmp_path):
    source = tiny.published(tmp_path / "published", dtype=torch.bfloat16)
    kept, chosen = convert(source, tmp_path / "kept"), convert(source, tmp_path / "chosen", dtype="float16")
    assert {t.dtype for t in written(kept).values()} == {torch.bfloat16}
    assert {t.dtype for t in written(chosen).values()} == {torch.float16}
    assert (config_of(kept)["dtype"], config_of(chosen)["dtype"]) == ("bfloat16", "float16")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"template": "phi3-chat", "llm_config": {**tiny.INTERNLM2, "architectures": ["Phi3ForCausalLM"]}}, "Phi3ForCausalLM"),
        ({"vision_config": {**tiny.VISION, "qk_normalization": True, "norm_type": "rms_norm"}}, "26B"),
        ({"template": "internvl2_5"}, "internvl2_5"),
        ({"select_layer": -2}, "layer -2"),
        ({"force_image_size": 448}, "448 pixels"),
        ({"use_llm_lora": 16}, "LoRA"),
        ({"architectures": ["LlavaForConditionalGeneration"]}, "LlavaForConditionalGeneration"),
    ],
)
def test_other_models_are_refused(source, tmp_path, change, reason):
    (source / "config.json").write_text(json.dumps(config_of(source) | change))
    with pytest.raises(CheckpointError, match=reason) as refused:
        convert(source, tmp_path / "converted")
    assert "1B, 2B and 8B" in str(refused.value)
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_converted_is_said_to_be(source, tmp_path):
    target = convert(source, tmp_path / "converted")
    with pytest.raises(CheckpointError, match="converted already"):
        convert(target, tmp_path / "again")


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: w.pop("mlp1.3.bias"), "lacks 1 of the model's 67 weights: multi_modal_projector.linear_2.bias"),
        (lambda w: w.pop("language_model.model.layers.1.attention.wqkv.weight"), "lacks 3 of .*: language_model.model.layers.1.self_attn.q_proj.weight, "),
        (lambda w: w.update({"vision_model.encoder.layers.0.attn.q_norm.weight": torch.ones(32)}), "does not know: .*attn.q_norm"),
        (lambda w: w.update({"language_model.model.layers.2.attention.wo.weight": torch.ones(128, 128)}), "does not know: .*layers.2"),
        (lambda w: w.update({"mlp1.0.bias": torch.ones(9)}), r"layer_norm.bias is \(9,\) in the checkpoint, \(128,\) by"),
    ],
)  # fmt: skip
def test_missing_unexpected_and_misshapen_weights_are_refused(source, tmp_path, shards, change, reason):
    weights = tiny.weights(config_of(source))
    change(weights)
    tiny.write_shards(source, weights, shards)
    with pytest.raises(CheckpointError, match=reason):
        convert(source, tmp_path / "converted")
    assert list(tmp_path.iterdir()) == [source]


def test_positions_are_stretched_as_published(pair):
    """Only beyond the 32,768 tokens that the model was trained for."""
    text = config_of(pair[1])["text_config"]
    assert text["max_position_embeddings"] == 32768
    published = LANGUAGES[text["model_type"].replace("llama", "internlm2")]
    expected = {"rope_theta": published["rope_theta"], "rope_type": "dynamic" if "rope_scaling" in published else "default"}
    assert text["rope_parameters"] == expected | ({"factor": 2.0} if "rope_scaling" in published else {})
