"""Tokenizers of published checkpoints that come only as a SentencePiece model, or with code: as one plain ``tokenizer.json``.

The result gives the ids that the authors' slow tokenizers give, whatever stands in the checkpoint's ``tokenizer_config.json`` of
later ways to treat spaces: the models were trained with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthvlm.converting.reading import read_json
from synthvlm.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BPE = 2
_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4
"""Types of a SentencePiece model and of its pieces, by its own numbers."""


def added_tokens(directory: str | Path) -> dict[int, str]:
    """Return id → text of the tokens that a checkpoint adds to its vocabulary, or puts in the place of one of its pieces."""
    root = Path(directory)
    found: dict[int, str] = {}
    if (root / "added_tokens.json").is_file():
        found |= {int(number): text for text, number in read_json(root / "added_tokens.json").items()}
    if (root / "tokenizer_config.json").is_file():
        decoder = read_json(root / "tokenizer_config.json").get("added_tokens_decoder", {})
        found |= {int(number): token["content"] for number, token in decoder.items()}
    return found


def from_sentencepiece(model: str | Path, added: Mapping[int, str] | None = None) -> Tokenizer:
    """Return the tokenizer of a SentencePiece BPE model (``tokenizer.model``) with ``added`` special tokens by id; BOS comes first.

    As in the authors' slow tokenizers, text is cut at special tokens and each piece is encoded as if it stood alone, with the space
    before it where the model adds one. Raises CheckpointError for another kind of model.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

    proto = _read(Path(model))
    texts = [piece.piece for piece in proto.pieces]
    types = {number: piece.type for number, piece in enumerate(proto.pieces)}
    special = {number: texts[number] for number, kind in types.items() if kind in (_UNKNOWN, _CONTROL)} | dict(added or {})
    for number, text in special.items():
        if number < len(texts):
            texts[number] = text
    tokenizer = Tokenizer(
        models.BPE(
            vocab={text: number for number, text in enumerate(texts)},
            merges=_merges(proto, special),
            unk_token=texts[proto.trainer_spec.unk_id],
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    spec = proto.normalizer_spec
    steps: list[Any] = [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    # SentencePiece means the space alone by whitespace.
    edges, runs = normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")
    steps += [edges, runs] if spec.remove_extra_whitespaces else []
    steps += [normalizers.Prepend("▁")] if spec.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    tokenizer.add_tokens([AddedToken(texts[n], normalized=False) for n, kind in types.items() if kind == _USER and n not in special])
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for _, text in sorted(special.items())])
    for number, text in special.items():
        if tokenizer.token_to_id(text) != number:
            raise CheckpointError(
                f"the tokenizer of {Path(model).parent} cannot have the token {text} at {number}: there is a gap, or it is there twice",
                "fetch the checkpoint anew",
            )
    bos = texts[proto.trainer_spec.bos_id]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, proto.trainer_spec.bos_id)]
    )
    return tokenizer


def _read(model: Path) -> Any:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    try:
        proto.ParseFromString(model.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{model.parent} has no {model.name}", "give the directory that holds the model's files") from error
    except (DecodeError, OSError) as error:
        raise CheckpointError(f"{model} is no SentencePiece model: {error}", "fetch it anew") from error
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    # Pieces that the user defined are cut out first, and what follows one would get a space where SentencePiece adds none.
    spaced = normalizer.add_dummy_prefix and any(piece.type == _USER for piece in proto.pieces)
    if trainer.model_type != _BPE or trainer.bos_id < 0 or spaced:
        raise CheckpointError(
            f"{model} is not a SentencePiece model of the kind that Llama and InternLM2 have", "is it the right checkpoint?"
        )
    return proto


def _merges(proto: Any, special: Mapping[int, str]) -> list[tuple[str, str]]:
    """Return the pairs of pieces that make a piece, in the order in which SentencePiece would join them: by the whole's score."""
    normal = {piece.piece: number for number, piece in enumerate(proto.pieces) if piece.type == _NORMAL and number not in special}
    pairs = []
    for whole, number in normal.items():
        halves = ((whole[:cut], whole[cut:]) for cut in range(1, len(whole)))
        pairs += [(-proto.pieces[number].score, normal[a], normal[b], a, b) for a, b in halves if a in normal and b in normal]
    return [(a, b) for *_, a, b in sorted(pairs)]
