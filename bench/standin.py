"""Stand-ins for an image model and a scorer: they cost nothing, or sleep as long as they are told. Written as an installed plugin."""

from __future__ import annotations

from pathlib import Path

PLUGIN = '''
import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any
from PIL import Image
import synthvlm

@dataclass(frozen=True)
class Noise:
    """Grey noise."""
    side: int = 176
    seconds: float = synthvlm.runtime(0.0)
    record: str = synthvlm.runtime("", help="folder for when each batch began and ended")
    batch_size: int = 16
    def load(self, devices: Any) -> Any:
        return self
    def generate(self, batch: Any) -> Any:
        began = time.monotonic()
        time.sleep(self.seconds)
        if self.record:
            with open(f"{self.record}/{os.getpid()}", "a") as out:
                out.write(f"{began} {time.monotonic()}\\n")
        shape = (self.side, self.side)
        return [Image.frombytes("L", shape, hashlib.shake_128(str(r.seed).encode()).digest(self.side**2)).convert("RGB") for r in batch]

@dataclass(frozen=True)
class Chance:
    """A number from the image's first pixels."""
    seconds: float = synthvlm.runtime(0.0)
    def load(self, devices: Any) -> Any:
        return self
    batch_size = 64
    columns = ("clip",)
    cards = {"clip": {"metric": "none"}}
    def score(self, batch: Any) -> Any:
        time.sleep(self.seconds)
        return [{"clip": int.from_bytes(hashlib.md5(r.image.crop((0, 0, 4, 4)).tobytes()).digest()[:4]) / 2**32} for r in batch]

@synthvlm.hookimpl
def register_generators(register):
    register("noise", Noise)

@synthvlm.hookimpl
def register_scorers(register):
    register("chance", Chance)
'''


def plugin(folder: Path) -> None:
    """Write the stand-in as an installed plugin."""
    (folder / "noise_plugin.py").write_text(PLUGIN)
    info = folder / "noise_plugin-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noise-plugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[synthvlm]\nnoise = noise_plugin\n")
