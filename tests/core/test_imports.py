"""Importing synthvlm, its command line and every plugin brings nothing heavy; the public names are these."""

from __future__ import annotations

import inspect
import json
import os
import resource
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import synthvlm
from synthvlm import hookspecs
from synthvlm.cli import COMMANDS

HEAVY = ["torch", "transformers", "diffusers", "vllm", "ray", "open_clip", "skimage", "duckdb", "pyarrow", "pydantic", "rich", "fastapi"]
PLUGINS = sorted({p.module for p in entry_points(group="synthvlm") if p.dist and p.dist.name == "synthvlm"})

PUBLIC = [
    "Caption", "CaptionRequest", "CheckpointError", "Failed", "GeneratedImage", "ImageRequest", "InputError", "OptionError", "PluginError", "Run", "RunError", "RunLocked", "RunMismatch",
    "Sample", "ScoreRequest", "SynthVLMError", "TooManyFailures", "WorkerError", "checkpoint", "hookimpl", "option", "runtime",
]  # fmt: skip


def brought(code: str) -> list[str]:
    """Return the heavy modules that are there after ``code``, in a fresh process."""
    tell = f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code + tell], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_probe_sees_what_is_imported():
    assert brought("import pyarrow") == ["pyarrow"]


def test_importing_synthvlm_and_its_command_line_brings_nothing_heavy():
    modules = ["synthvlm", "synthvlm.cli", *(f"synthvlm.cli.{c}" for c in COMMANDS), "synthvlm.cli.line", "synthvlm.cli.common"]
    public = [
        "synthvlm.interfaces",
        "synthvlm.hookspecs",
        "synthvlm.options",
        "synthvlm.sample",
        "synthvlm.engines",
        "synthvlm.scorers",
        "synthvlm.plugins",
        "synthvlm.prompts",
    ]
    assert brought("import " + ", ".join(modules + public)) == []


def test_the_project_has_plugins():
    assert {"synthvlm_sdxl", "synthvlm_sd3", "synthvlm_diffusers", "synthvlm_scores", "synthvlm_mini"} <= set(PLUGINS)


@pytest.mark.parametrize("module", PLUGINS)
def test_importing_a_plugin_brings_nothing_heavy(module):
    assert brought(f"import {module}") == []


def test_finding_and_describing_every_plugin_brings_nothing_heavy():
    code = """
from synthvlm.plugins import discover
from synthvlm.options import describe
registry = discover()
assert not registry.broken, registry.broken
for r in registry.registrations.values():
    describe(r.cls)
    r.missing
"""
    assert brought(code) == []


def test_help_brings_nothing_heavy():
    assert (
        brought(
            "from click.testing import CliRunner; from synthvlm.cli import cli; assert CliRunner().invoke(cli, ['--help']).exit_code == 0"
        )
        == []
    )


def test_help_is_instant():
    """CPU time, and the best of five: other processes share this machine."""
    command = [os.path.join(os.path.dirname(sys.executable), "synthvlm"), "--help"]
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) < 0.3


def test_public_names():
    assert sorted(synthvlm.__all__) == PUBLIC
    for name in synthvlm.__all__:
        assert getattr(synthvlm, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        synthvlm.nothing  # noqa: B018


def test_the_family_of_errors_is_as_it_is_drawn():
    from synthvlm import errors

    family = {n: e for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, errors.SynthVLMError)}
    drawn = [x.strip(" │├└─").split() for x in (errors.__doc__ or "").splitlines() if "Error" in x or "Run" in x or "TooMany" in x]
    assert {words[0] for words in drawn if words[0] in family} == set(family)
    assert set(family) <= set(synthvlm.__all__)
    assert {n: e.exit_code for n, e in family.items()} == {n: 3 if n == "TooManyFailures" else 2 for n in family}
    assert issubclass(errors.RunMismatch, errors.RunError)
    assert issubclass(errors.RunLocked, errors.RunError)


def test_hooks_are_as_documented():
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("register_")}
    assert sorted(hooks) == ["register_captioners", "register_generators", "register_scorers"]
    for hook in hooks.values():
        assert list(inspect.signature(hook).parameters) == ["register"]
        assert hasattr(hook, "synthvlm_spec")


def test_interfaces_are_as_documented():
    from synthvlm.interfaces import Captioner, ImageGenerator, Options, Scorer

    def signature(cls: type, method: str) -> list[str]:
        return list(inspect.signature(getattr(cls, method)).parameters)

    assert signature(Options, "load") == ["self", "devices"]
    assert signature(ImageGenerator, "generate") == ["self", "batch"]
    assert signature(Captioner, "caption") == ["self", "batch"]
    assert signature(Scorer, "score") == ["self", "batch"]
    assert {"batch_size"} <= set(ImageGenerator.__annotations__)
    assert {"batch_size"} <= set(Captioner.__annotations__)
    assert {"batch_size", "columns", "cards"} <= set(Scorer.__annotations__)
    from synthvlm import CaptionRequest, ImageRequest, ScoreRequest

    assert list(ImageRequest.__dataclass_fields__) == ["id", "candidate", "caption", "seed"]
    assert list(ScoreRequest.__dataclass_fields__) == ["id", "candidate", "caption", "image", "prepared"]
    fields = ["id", "prompt", "images", "image_ids", "max_new_tokens", "repetition_penalty", "json_schema"]
    assert list(CaptionRequest.__dataclass_fields__) == fields
