"""Checkpoints are settled before anything runs: what they are, what of a hub repository is fetched, what is said when that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from synthvlm.checkpoints import content_hash, files_to_fetch, resolve
from synthvlm.errors import CheckpointError
from synthvlm.options import checkpoint


def listing(files: str) -> list[str]:
    return files.split()


SDXL = listing("""
.gitattributes 01.png LICENSE.md README.md comparison.png model_index.json pipeline.png scheduler/scheduler_config.json sd_xl_base_1.0.safetensors
sd_xl_base_1.0_0.9vae.safetensors sd_xl_offset_example-lora_1.0.safetensors text_encoder/config.json text_encoder/flax_model.msgpack
text_encoder/model.fp16.safetensors text_encoder/model.onnx text_encoder/model.safetensors text_encoder/openvino_model.bin text_encoder/openvino_model.xml
text_encoder_2/config.json text_encoder_2/flax_model.msgpack text_encoder_2/model.fp16.safetensors text_encoder_2/model.onnx text_encoder_2/model.onnx_data
text_encoder_2/model.safetensors text_encoder_2/openvino_model.bin text_encoder_2/openvino_model.xml tokenizer/merges.txt tokenizer/special_tokens_map.json
tokenizer/tokenizer_config.json tokenizer/vocab.json tokenizer_2/merges.txt tokenizer_2/special_tokens_map.json tokenizer_2/tokenizer_config.json
tokenizer_2/vocab.json unet/config.json unet/diffusion_flax_model.msgpack unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.safetensors unet/model.onnx unet/model.onnx_data unet/openvino_model.bin unet/openvino_model.xml vae/config.json
vae/diffusion_flax_model.msgpack vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.safetensors vae_decoder/config.json
vae_decoder/model.onnx vae_decoder/openvino_model.bin vae_decoder/openvino_model.xml vae_encoder/config.json vae_encoder/model.onnx
""")

SD3 = listing("""
LICENSE.md README.md mmdit.png model_index.json scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.fp16.safetensors
text_encoder/model.safetensors text_encoder_2/config.json text_encoder_2/model.fp16.safetensors text_encoder_2/model.safetensors text_encoder_3/config.json
text_encoder_3/model-00001-of-00002.safetensors text_encoder_3/model-00002-of-00002.safetensors text_encoder_3/model.fp16-00001-of-00002.safetensors
text_encoder_3/model.fp16-00002-of-00002.safetensors text_encoder_3/model.safetensors.index.fp16.json text_encoder_3/model.safetensors.index.json
tokenizer/merges.txt tokenizer/vocab.json tokenizer_2/merges.txt tokenizer_2/vocab.json tokenizer_3/spiece.model tokenizer_3/tokenizer.json
transformer/config.json transformer/diffusion_pytorch_model.safetensors vae/config.json vae/diffusion_pytorch_model.safetensors
""")

SD35 = listing("""
LICENSE.md model_index.json scheduler/scheduler_config.json sd3.5_large.safetensors text_encoder/config.json text_encoder/model.safetensors
text_encoders/README.md text_encoders/clip_g.safetensors text_encoders/clip_l.safetensors text_encoders/t5xxl_fp16.safetensors
text_encoders/t5xxl_fp8_e4m3fn.safetensors tokenizer/vocab.json transformer/config.json transformer/diffusion_pytorch_model-00001-of-00002.safetensors
transformer/diffusion_pytorch_model-00002-of-00002.safetensors transformer/diffusion_pytorch_model.safetensors.index.json vae/config.json
vae/diffusion_pytorch_model.safetensors
""")

OPEN_CLIP = listing("""
.gitattributes README.md config.json merges.txt model.safetensors open_clip_config.json open_clip_model.safetensors open_clip_pytorch_model.bin
preprocessor_config.json pytorch_model.bin special_tokens_map.json tokenizer.json tokenizer_config.json vocab.json
""")


def weights(files: list[str]) -> list[str]:
    return [f for f in files if f.endswith((".safetensors", ".bin", ".msgpack", ".onnx", ".onnx_data", ".xml"))]


def test_sdxl_full_precision():
    found = files_to_fetch(SDXL, "diffusers", None)
    assert weights(found) == [
        f"{p}.safetensors"
        for p in ("text_encoder/model", "text_encoder_2/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model")
    ]
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "unet/config.json"} <= set(found)
    assert not [f for f in found if f.endswith((".png", ".md"))]


def test_sdxl_half_precision():
    found = weights(files_to_fetch(SDXL, "diffusers", "fp16"))
    assert found == [
        f"{p}.fp16.safetensors"
        for p in ("text_encoder/model", "text_encoder_2/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model")
    ]


def test_sd3_shards_of_one_precision_only():
    t5 = [f for f in weights(files_to_fetch(SD3, "diffusers", None)) if "text_encoder_3" in f]
    assert t5 == ["text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model-00002-of-00002.safetensors"]
    half = weights(files_to_fetch(SD3, "diffusers", "fp16"))
    assert [f for f in half if "text_encoder_3" in f] == [
        "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "text_encoder_3/model.fp16-00002-of-00002.safetensors",
    ]
    assert "transformer/diffusion_pytorch_model.safetensors" in half, "the only precision there is"
    assert "tokenizer_3/spiece.model" in files_to_fetch(SD3, "diffusers", None)


def test_folders_that_the_options_leave_out():
    found = files_to_fetch(SD3, "diffusers", None, ("text_encoder_3", "tokenizer_3"))
    assert not [f for f in found if f.startswith(("text_encoder_3/", "tokenizer_3/"))]
    assert "text_encoder_2/model.safetensors" in found


def test_older_names_of_sharded_variants():
    here = ["unet/config.json", *(f"unet/diffusion_pytorch_model-0000{n}-of-00002{v}.safetensors" for n in (1, 2) for v in ("", ".fp16"))]
    assert weights(files_to_fetch(here, "diffusers", "fp16")) == [
        f"unet/diffusion_pytorch_model-0000{n}-of-00002.fp16.safetensors" for n in (1, 2)
    ]
    assert weights(files_to_fetch(here, "diffusers", None)) == [
        f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)
    ]


def test_weights_that_belong_to_no_component_are_not_fetched():
    found = weights(files_to_fetch(SD35, "diffusers", None))
    assert not [f for f in found if f.startswith(("text_encoders/", "sd3.5"))]
    assert len(found) == 4


def test_open_clip_one_copy_of_the_weights():
    assert weights(files_to_fetch(OPEN_CLIP, "open_clip", None)) == ["open_clip_model.safetensors"]
    older = [f for f in OPEN_CLIP if f != "open_clip_model.safetensors"]
    assert weights(files_to_fetch(older, "open_clip", None)) == ["open_clip_pytorch_model.bin"], "model.safetensors is for another library"
    assert {"open_clip_config.json", "tokenizer.json", "merges.txt"} <= set(files_to_fetch(OPEN_CLIP, "open_clip", None))


def test_any_other_repository():
    assert files_to_fetch(["config.json", "model.safetensors", "pytorch_model.bin", "README.md"], "any", None) == [
        "config.json",
        "model.safetensors",
    ]


# --- what a local checkpoint is -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def model(folder: Path, bytes_: bytes = b"weights") -> Path:
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "model.safetensors").write_bytes(bytes_)
    return folder


def test_the_hash_is_of_the_content_not_of_the_path(tmp_path):
    one = content_hash(str(model(tmp_path / "one")))
    assert one == content_hash(str(model(tmp_path / "two")))
    assert one == content_hash(os.path.relpath(tmp_path / "one"))
    assert one != content_hash(str(model(tmp_path / "three", b"Weights")))
    (tmp_path / "two" / "unet" / "model.safetensors").rename(tmp_path / "two" / "unet" / "other.safetensors")
    assert one != content_hash(str(tmp_path / "two")), "a file's name within counts"


def test_the_hash_follows_an_edit(tmp_path):
    folder = model(tmp_path / "one")
    before = content_hash(str(folder))
    (folder / "unet" / "model.safetensors").write_bytes(b"wEights")
    os.utime(folder / "unet" / "model.safetensors", ns=(1, 1))
    assert content_hash(str(folder)) != before
    (folder / "unet" / "model.safetensors").write_bytes(b"weights")
    assert content_hash(str(folder)) == before


def test_hidden_files_do_not_count(tmp_path):
    folder = model(tmp_path / "one")
    before = content_hash(str(folder))
    (folder / ".gitattributes").write_text("x")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "model_index.json.metadata").write_text("when it was downloaded")
    assert content_hash(str(folder)) == before
    hidden = tmp_path / ".models" / "one"
    assert content_hash(str(model(hidden))) == before, "but for the folders that it lies in"


def test_the_hash_is_remembered(tmp_path, monkeypatch):
    folder = model(tmp_path / "one")
    before = content_hash(str(folder))
    whole, opened = Path.open, []
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: opened.append(path) or whole(path, *a, **k))
    assert content_hash(str(folder)) == before
    assert opened
    assert not [p for p in opened if p.is_relative_to(folder)]


def test_a_read_only_home_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = model(tmp_path / "one")
    assert content_hash(str(folder)) == content_hash(str(folder))


def test_a_single_file_and_an_empty_folder(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"x")
    (tmp_path / "b.safetensors").write_bytes(b"x")
    assert content_hash(str(tmp_path / "a.safetensors")) == content_hash(str(tmp_path / "b.safetensors"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is empty"):
        content_hash(str(tmp_path / "empty"))


# --- resolving ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Painter:
    weights: str = checkpoint("org/painter", layout="diffusers")
    vae: str | None = checkpoint(None)
    steps: int = 3
    gated_page: ClassVar[str | None] = None

    def load(self, devices): ...


@dataclass(frozen=True)
class Gated(Painter):
    gated_page: ClassVar[str | None] = "https://example.org/licence"


def hub_error(kind: type[Exception], text: str = "401 Client Error") -> Exception:
    error = kind.__new__(kind)
    error.args = (text,)
    return error


class Hub:
    """A hub of one repository; counts what is asked of it."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.asked, self.trouble = cache, [], {}
        self.files = ["model_index.json", "unet/config.json", "unet/model.safetensors", "unet/model.onnx"]

    def model_info(self, _: Any, name: str, revision: str | None = None) -> Any:
        self.asked.append(("info", name, revision))
        if error := self.trouble.get("info"):
            raise error
        return SimpleNamespace(sha=revision or "newest", siblings=[SimpleNamespace(rfilename=f) for f in self.files])

    def snapshot_download(
        self, name: str, revision: str | None = None, local_files_only: bool = False, allow_patterns: list[str] | None = None
    ) -> str:
        folder = self.cache / (revision or "newest")
        if local_files_only:
            if not folder.exists():
                raise LocalEntryNotFoundError("not there")
            return str(folder)
        self.asked.append(("download", name, revision, allow_patterns))
        for f in allow_patterns or []:
            if error := self.trouble.get(f):
                raise error
            (folder / f).parent.mkdir(parents=True, exist_ok=True)
            (folder / f).write_text("x")
        return str(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *a, **k: hub.model_info(*a, **k))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_a_local_directory_counts_by_its_content(tmp_path):
    folder = model(tmp_path / "one")
    local, found = resolve(Painter(str(folder)))
    assert local == Painter(str(folder))
    assert list(found) == ["weights"], "what is None is not resolved"
    assert found["weights"].revision == f"content:{content_hash(str(folder))}"


def test_a_hub_repository_is_fetched_once_and_counts_by_its_revision(hub):
    local, found = resolve(Painter())
    assert local.weights == str(hub.cache / "newest")
    assert (found["weights"].asked, found["weights"].revision) == ("org/painter", "newest")
    assert hub.asked[1] == ("download", "org/painter", "newest", ["model_index.json", "unet/config.json", "unet/model.safetensors"])
    hub.asked.clear()
    assert resolve(Painter()) == (local, found)
    assert hub.asked == [], "no network once it is here"


def test_a_revision_can_be_named(hub):
    local, found = resolve(Painter("org/painter@v1.0"))
    assert local.weights == str(hub.cache / "v1.0")
    assert found["weights"].revision == "v1.0"


def test_a_download_that_was_cut_short_is_taken_up_again(hub):
    hub.files.append("vae/config.json")
    hub.files.append("vae/model.safetensors")
    hub.trouble["vae/model.safetensors"] = ConnectionError("reset by peer")
    with pytest.raises(CheckpointError, match="org/painter could not be fetched: reset by peer"):
        resolve(Painter())
    assert (hub.cache / "newest" / "unet" / "model.safetensors").exists(), "some of it came"
    hub.trouble.clear()
    local, _ = resolve(Painter())
    assert (Path(local.weights) / "vae" / "model.safetensors").exists()


def test_what_others_have_put_into_the_cache_serves_without_a_network(hub):
    model(hub.cache / "newest")
    hub.trouble["info"] = ConnectionError("no route")
    local, found = resolve(Painter())
    assert (local.weights, found["weights"].revision) == (str(hub.cache / "newest"), "newest")
    hub.trouble["info"] = hub_error(RepositoryNotFoundError)
    assert resolve(Painter()) == (local, found), "a private one, its token not set now"


def test_nothing_is_fetched_when_only_looking(hub):
    with pytest.raises(CheckpointError, match="org/painter is not in the cache") as error:
        resolve(Painter(), fetch=False)
    assert "will be downloaded" in str(error.value)
    assert hub.asked == []
    model(hub.cache / "newest")
    assert resolve(Painter(), fetch=False)[1]["weights"].revision == "newest"
    assert hub.asked == []


def test_a_gated_licence_is_explained(hub):
    hub.trouble["unet/model.safetensors"] = hub_error(GatedRepoError)
    with pytest.raises(CheckpointError, match="org/painter is gated") as error:
        resolve(Painter())
    assert "https://huggingface.co/org/painter" in str(error.value)
    assert "HF_TOKEN" in str(error.value)
    with pytest.raises(CheckpointError) as error:
        resolve(Gated())
    assert "https://example.org/licence" in str(error.value)


@pytest.mark.parametrize("kind", [RepositoryNotFoundError, RevisionNotFoundError])
def test_a_repository_that_is_not_there(hub, kind):
    hub.trouble["info"] = hub_error(kind)
    with pytest.raises(CheckpointError, match="the hub has no org/painter@v9") as error:
        resolve(Painter("org/painter@v9"))
    assert "private one needs HF_TOKEN" in str(error.value)


@pytest.mark.parametrize("asked", ["./nowhere", "/no/such/dir", "painter", "a/b/c", "models/x y"])
def test_neither_a_directory_nor_a_hub_id(hub, asked):
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        resolve(Painter(asked))
    assert hub.asked == []
