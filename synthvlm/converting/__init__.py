"""Turn a published checkpoint into a plain directory: read tensors one by one, check each against the model, write shards as they fill.

A plugin offers a conversion by naming it on its options class; ``synthvlm convert KIND SRC DST`` finds it there, under the name
that the options class is registered with::

    @dataclass(frozen=True)
    class Conversion:                                   # options as data, as everywhere
        dtype: Literal["keep", "bfloat16"] = option("keep", help="precision to write")

        def convert(self, source: str, target: str, say: Callable[[str], None]) -> None:
            with writing("mine", 1, {"SRC": source}, target, self) as folder:
                if folder is not None:                  # None: target was made of just this already
                    write_weights(folder, renamed(source), expected_weights(Model, config), say=say)

    @dataclass(frozen=True)
    class Mine(CaptionerOptions):
        conversion: ClassVar[type] = Conversion

Memory: one shard of the source (mapped, not read, where its format allows) and one gigabyte of output.
"""

from __future__ import annotations

from synthvlm.converting.directory import writing
from synthvlm.converting.reading import at_hand, read_json, read_weights
from synthvlm.converting.tokenizer import added_tokens, from_sentencepiece
from synthvlm.converting.weights import expected_weights, write_weights

__all__ = ["added_tokens", "at_hand", "expected_weights", "from_sentencepiece", "read_json", "read_weights", "write_weights", "writing"]
