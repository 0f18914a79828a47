"""A broken plugin is a clear message that names it, raised only when it is asked for; everything else goes on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from synthvlm.cli import cli
from synthvlm.errors import OptionError, PluginError
from synthvlm.plugins import Registry, discover

GOOD = '''
from dataclasses import dataclass
from typing import ClassVar
import synthvlm

@dataclass(frozen=True)
class Good:
    """Draws well. And more."""

    checkpoint: str = synthvlm.checkpoint("org/good")
    steps: int = synthvlm.option(5, help="how long", ge=1)
    workers: int = synthvlm.runtime(2, help="how many")
    presets: ClassVar = {"quick": {"steps": 1}}

    def load(self, devices): ...

@synthvlm.hookimpl
def register_generators(register):
    register("NAME", Good)
'''


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Install a distribution of one module, so to speak; ``name`` is its entry point, module and part of its own name."""
    monkeypatch.syspath_prepend(tmp_path)
    planted = []

    def put(name: str, source: str, version: str = "1.5", target: str | None = None) -> None:
        info = tmp_path / f"dist_{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dist-{name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[synthvlm]\n{name} = {target or name}\n")
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        planted.append(name)

    yield put
    for name in planted:
        sys.modules.pop(name, None)


def others_go_on(registry: Registry) -> None:
    assert {"mini", "sdxl", "sd3", "diffusers"} <= set(registry.names("generator"))
    assert {"clip", "ssim"} <= set(registry.names("scorer"))
    registry.create("generator", "mini")
    registry.create("scorer", "ssim")


def reason(registry: Registry, plugin: str) -> str:
    (found,) = [b for b in registry.broken if b.plugin == plugin]
    assert found.distribution == f"dist-{plugin}"
    return found.reason


def test_the_projects_own_are_plugins_like_any_other():
    registry = discover()
    assert registry.broken == []
    others_go_on(registry)
    assert {r.distribution for r in registry.registrations.values()} == {"synthvlm"}


def test_a_good_plugin(plant):
    plant("fine", GOOD.replace("NAME", "good"))
    registry = discover()
    assert registry.broken == []
    others_go_on(registry)
    found = registry.get("generator", "good")
    assert (found.kind, found.name, found.plugin, found.distribution, found.version) == ("generator", "good", "fine", "dist-fine", "1.5")
    assert found.missing == []
    assert registry.create("generator", "good", {"steps": "7"}, "quick").steps == 7
    with pytest.raises(OptionError, match="good has no option 'step'"):
        registry.create("generator", "good", {"step": 1})
    with pytest.raises(OptionError, match="good: option steps=0 is not right"):
        registry.create("generator", "good", {"steps": 0})


def test_an_object_can_be_a_plugin(plant):
    plant(
        "fine",
        GOOD.replace("NAME", "good") + "\nclass Namespace:\n    register_generators = staticmethod(register_generators)\n",
        target="fine:Namespace",
    )
    assert discover().get("generator", "good").plugin == "fine"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module_at_all", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('not on this machine')", "cannot be imported: SystemExit: not on this machine"),
        ("raise __import__('synthvlm').PluginError('needs a licence')", "cannot be imported: needs a licence"),
        (
            GOOD.replace("def register_generators", "def register_generator"),
            "implements an unknown hook 'register_generator'; did you mean register_generators?",
        ),
        (
            GOOD.replace("def register_generators", "def plug_me_in"),
            "implements an unknown hook 'plug_me_in'; hooks are register_generators, register_captioners, register_scorers",
        ),
        (
            GOOD.replace("@synthvlm.hookimpl", ""),
            "implements no hook: mark register_generators, register_captioners, register_scorers with @synthvlm.hookimpl",
        ),
        (
            GOOD.replace("def register_generators(register)", "def register_generators(registry)"),
            "cannot be registered: Plugin 'bad' for hook 'register_generators'",
        ),
        (GOOD.replace('    register("NAME", Good)', "    raise KeyError('x')"), "register_generators raised KeyError: 'x'"),
        (GOOD.replace('register("NAME", Good)', 'register("NAME")'), "register_generators raised TypeError"),
        (
            GOOD.replace('register("NAME", Good)', 'register("NAME", Good())'),
            "as generator 'NAME': expected an options class (a frozen dataclass)",
        ),
        (
            GOOD.replace('register("NAME", Good)', 'register("NAME", dict)'),
            "registers <class 'dict'> as generator 'NAME': expected an options class (a frozen dataclass)",
        ),
        (GOOD.replace("def load(", "def laod("), "registers Good as generator 'NAME', which has no load(devices) method"),
        (
            "from __future__ import annotations\n" + GOOD.replace("steps: int", "steps: Steps"),
            "registers Good as generator 'NAME', whose options cannot be read: name 'Steps' is not defined",
        ),
        (GOOD.replace('"NAME"', '""'), "registers a generator under '', which is not a name"),
        (GOOD.replace('"NAME"', "7"), "registers a generator under 7, which is not a name"),
        (GOOD + '    register("NAME", Good)\n', "registers the name 'NAME' twice"),
    ],
)
def test_whatever_is_wrong_with_one_the_others_go_on(plant, source, said):
    plant("bad", source)
    plant("fine", GOOD.replace("NAME", "good"))
    registry = discover()
    assert said in reason(registry, "bad")
    others_go_on(registry)
    assert registry.create("generator", "good").steps == 5
    with pytest.raises(PluginError) as error:
        registry.get("generator", "NAME")
    assert "plugin" in str(error.value)
    assert "bad" in str(error.value)
    assert said in str(error.value), "who asks for it is told"


def test_a_hook_that_fails_half_way_keeps_what_it_registered(plant):
    plant("bad", GOOD.replace("NAME", "good") + "    raise OSError('then this')\n")
    registry = discover()
    assert reason(registry, "bad") == "register_generators raised OSError: then this"
    assert registry.create("generator", "good").steps == 5


def test_a_plugin_of_the_entry_points_own_name_that_cannot_be_imported_says_why_when_asked_for(plant):
    plant("bad", "import no_such_module_at_all")
    with pytest.raises(PluginError, match=r"^plugin bad cannot be imported: ModuleNotFoundError"):
        discover().get("generator", "bad")


@pytest.mark.parametrize("second", ["generators", "captioners"])
def test_a_name_that_two_plugins_register_is_neithers(plant, second):
    plant("one", GOOD.replace("NAME", "good"))
    plant("two", GOOD.replace("NAME", "good").replace("register_generators", f"register_{second}"))
    plant("three", GOOD.replace("NAME", "better"))
    registry = discover()
    others_go_on(registry)
    assert registry.create("generator", "better").steps == 5
    for kind in ("generator", "captioner"):
        with pytest.raises(PluginError, match="plugin two and one both register the name 'good'; uninstall one of them"):
            registry.get(kind, "good")
    plant("zzz", GOOD.replace("NAME", "good"))
    registry = discover()
    assert "both register the name 'good'" in reason(registry, "zzz"), "a third is no better"
    assert "good" not in registry.names("generator")


def test_a_newcomer_does_not_take_a_built_in_ones_name_unseen(plant):
    plant("aaa", GOOD.replace("NAME", "sdxl"))
    registry = discover()
    with pytest.raises(PluginError, match="plugin aaa and sdxl both register the name 'sdxl'"):
        registry.get("generator", "sdxl")
    registry.create("generator", "mini")


def test_scorers_have_a_name_space_of_their_own(plant):
    plant("one", GOOD.replace("NAME", "good"))
    plant("two", GOOD.replace("NAME", "good").replace("register_generators", "register_scorers"))
    registry = discover()
    assert registry.broken == []
    assert registry.get("generator", "good").plugin == "one"
    assert registry.get("scorer", "good").plugin == "two"


def test_an_unknown_name_has_the_close_one_and_the_list():
    registry = discover()
    with pytest.raises(PluginError, match="there is no generator 'sdlx'") as error:
        registry.get("generator", "sdlx")
    assert error.value.hint == "did you mean 'sdxl'? there are: diffusers, mini, sd3, sdxl"
    with pytest.raises(PluginError) as error:
        registry.get("captioner", "gpt")
    assert error.value.hint.startswith("there are: captioner-agreement, internvl2, llava")


# --- the command --------------------------------------------------------------------------------------------------------


def said(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["plugins", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_list_shows_name_kind_version_origin_and_what_is_broken(plant):
    plant("fine", GOOD.replace("NAME", "good"), version="2.7")
    plant("bad", "import no_such_module_at_all")
    lines = said().splitlines()
    at = next(n for n, x in enumerate(lines) if x.split()[:1] == ["good"])
    assert "Draws well. And more." in lines[at]
    assert lines[at + 1].strip() == "dist-fine 2.7 (fine)"
    assert lines.index("generators") < at < lines.index("scorers")
    assert any(x.startswith("broken: bad (dist-bad) cannot be imported: ModuleNotFoundError") for x in lines)
    for name in ("sdxl", "sd3", "diffusers", "mini", "clip", "ssim"):
        assert any(x.split()[:1] == [name] for x in lines)


def test_one_shows_its_options_with_defaults_roles_and_presets(plant):
    plant("fine", GOOD.replace("NAME", "good"))
    shown = said("good")
    assert "-o checkpoint=org/good  (str, identity)" in shown
    assert "-o steps=5  (int, identity)  how long" in shown
    assert "-o workers=2  (int, runtime)  how many" in shown
    assert "--preset quick: steps=1" in shown
    assert "sdxl" not in shown


def test_what_is_missing_is_shown_with_what_brings_it(plant):
    source = GOOD.replace("NAME", "good").replace(
        "presets: ClassVar", "requires: ClassVar = ('torch', 'no_such_module.sub')\n    extra: ClassVar = 'clip'\n    presets: ClassVar"
    )
    plant("fine", source)
    assert discover().get("generator", "good").missing == ["no_such_module.sub"]
    assert "missing: no_such_module.sub; pip install 'synthvlm[clip]'" in said("good")
    assert "missing: no_such_module.sub" in said()


def test_a_broken_one_can_be_asked_about(plant):
    plant("bad", GOOD.replace('register("NAME", Good)', 'register("NAME", dict)'))
    for name in ("bad", "NAME"):
        assert "broken: bad (dist-bad) registers <class 'dict'> as generator 'NAME'" in said(name)


def test_an_unknown_one():
    with pytest.raises(PluginError, match="there is no model or scorer 'nope'"):
        CliRunner().invoke(cli, ["plugins", "nope"], catch_exceptions=False)


def test_doctor_tells_of_broken_plugins(plant):
    plant("bad", "import no_such_module_at_all")
    result = CliRunner().invoke(cli, ["doctor"], catch_exceptions=False)
    assert "broken: bad cannot be imported: ModuleNotFoundError" in result.output
