"""One resumable training loop for every step: same seed, same batches, wherever it was stopped."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

Loss = Callable[[random.Random], tuple[torch.Tensor, Mapping[str, float]]]
"""One batch, drawn by the generator that is handed over → its loss, and figures for the curve."""


@dataclass
class Schedule:
    """How long and how fast. The learning rate warms up, stays, and falls by a cosine from ``decay_from`` (a share of the steps) on."""

    steps: int
    rate: float
    warmup: int = 60
    decay_from: float = 0.5
    floor: float = 0.02
    weight_decay: float = 0.02
    ema: float = 0.998
    betas: tuple[float, float] = (0.9, 0.98)
    slower: Mapping[str, float] = field(default_factory=dict)
    """Module → factor on its learning rate."""

    def at(self, step: int) -> float:
        """Return the learning rate of a step."""
        done = step / self.steps
        tail = 0.0 if done <= self.decay_from else (done - self.decay_from) / (1 - self.decay_from)
        return self.rate * min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * tail)))


def seeded(name: str, step: int, seed: int = 0) -> random.Random:
    """Return the random numbers of a step, torch's included: a resumed run goes on with the batches that it would have had."""
    rng = random.Random(f"{name}:{seed}:{step}")
    torch.manual_seed(rng.getrandbits(32))
    return rng


def fit(
    name: str,
    out: Path,
    modules: Mapping[str, nn.Module],
    loss: Loss,
    schedule: Schedule,
    *,
    after: Callable[[], None] | None = None,
    save_every: float = 120.0,
    log_every: int = 50,
) -> dict[str, dict[str, torch.Tensor]]:
    """Train ``modules`` and return their averaged weights, by module; they are loaded into the modules too.

    ``out/NAME.pt`` is the checkpoint, written about every ``save_every`` seconds, and ``out/NAME.jsonl`` the curve. ``after`` is called
    after every step (to bound a parameter). A step that is finished already returns its weights at once.
    """
    params = [(m, k, p) for m, module in modules.items() for k, p in module.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p], "factor": schedule.slower.get(m, 1.0), "weight_decay": schedule.weight_decay if p.ndim > 1 else 0.0}
        for m, _, p in params
    ]
    optimizer = torch.optim.AdamW(groups, schedule.rate, betas=schedule.betas)
    live = {m: dict(module.state_dict()) for m, module in modules.items()}
    average = {m: {k: v.detach().clone() for k, v in state.items()} for m, state in live.items()}
    step, spent, path = 0, 0.0, out / f"{name}.pt"
    if path.exists():
        saved = torch.load(path, map_location=next(iter(params))[2].device, weights_only=True)
        step, spent, average = saved["step"], saved["seconds"], saved["average"]
        for m, module in modules.items():
            module.load_state_dict(saved["modules"][m])
        if step < schedule.steps:
            optimizer.load_state_dict(saved["optimizer"])
        print(f"{name}: resumed at step {step} of {schedule.steps}", flush=True)

    def save() -> None:
        states = {m: module.state_dict() for m, module in modules.items()}
        beside = path.with_suffix(".tmp")
        torch.save({"step": step, "seconds": spent, "modules": states, "average": average, "optimizer": optimizer.state_dict()}, beside)
        os.replace(beside, path)

    fast = [(live[m][k], average[m][k]) for m in live for k in live[m] if live[m][k].is_floating_point()]
    figures: list[Mapping[str, float]] = []
    began = saved_at = time.monotonic()
    for module in modules.values():
        module.train()
    while step < schedule.steps:
        rate = schedule.at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        value, told = loss(seeded(name, step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_([p for _, _, p in params], 1.0)
        optimizer.step()
        if after:
            after()
        step += 1
        keep = min(schedule.ema, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_([a for _, a in fast], [v for v, _ in fast], 1 - keep)
        figures.append({"loss": value.detach().item(), **told})
        now = time.monotonic()
        if step % log_every == 0 or step == schedule.steps:
            seconds = spent + now - began
            means = {k: round(sum(f[k] for f in figures) / len(figures), 4) for k in figures[0]}
            line: dict[str, Any] = {"step": step, "seconds": round(seconds, 1), "rate": round(rate, 6), **means}
            with (out / f"{name}.jsonl").open("a") as curve:
                curve.write(json.dumps(line) + "\n")
            left = seconds / step * (schedule.steps - step) / 60
            print(f"{name} {step}/{schedule.steps} {' '.join(f'{k} {v}' for k, v in means.items())}; {left:.0f} min left", flush=True)
            figures = []
        if now - saved_at > save_every or step == schedule.steps:
            spent, began, saved_at = spent + now - began, now, now
            save()
    for m, module in modules.items():
        module.load_state_dict(average[m])
        module.eval()
    return average
