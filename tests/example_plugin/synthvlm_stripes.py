"""A generator in 25 lines: stripes whose colours follow the seed."""

from dataclasses import dataclass

from PIL import Image

import synthvlm


@dataclass(frozen=True)
class Stripes:
    """Stripes in colours that follow the seed; the caption is ignored."""

    size: int = synthvlm.option(64, help="pixels", ge=8)
    batch_size: int = 4

    def load(self, devices):
        return self

    def generate(self, batch):
        for request in batch:
            stripe = Image.frombytes("RGB", (4, 1), request.seed.to_bytes(4, "big") * 3)
            yield stripe.resize((self.size, self.size), Image.Resampling.NEAREST)


@synthvlm.hookimpl
def register_generators(register):
    register("stripes", Stripes)
