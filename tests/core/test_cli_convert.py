"""``synthvlm convert`` from the command line: what it says, and what it refuses in a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

import synthvlm
from synthvlm import option
from synthvlm.cli import main
from synthvlm.converting import writing
from synthvlm.plugins import Registry


@dataclasses.dataclass(frozen=True)
class Copy:
    """A conversion as a third party's plugin has it."""

    loud: bool = option(False, help="write in capitals")

    def convert(self, source: str, target: str, say: Callable[[str], None]) -> None:
        with writing("copy", 1, {"SRC": source}, target, self) as folder:
            if folder is None:
                say("there already")
                return
            text = Path(source, "text").read_text()
            (folder / "text").write_text(text.upper() if self.loud else text)
            say("copied")


@dataclasses.dataclass(frozen=True)
class Copying:
    conversion: ClassVar[type] = Copy

    def load(self, devices: Any) -> None:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Elsewhere(Copying):
    requires: ClassVar[tuple[str, ...]] = ("no_such_module",)
    extra: ClassVar[str] = "transformers"


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    @synthvlm.hookimpl
    def register_captioners(register: Any) -> None:
        register("copy", Copying)
        register("elsewhere", Elsewhere)

    registry = Registry()
    registry.add_plugin("copying", SimpleNamespace(register_captioners=register_captioners))
    assert not registry.broken
    monkeypatch.setattr("synthvlm.plugins.discover", lambda: registry)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "text").write_text("a cat")
    return tmp_path / "source"


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["convert", *map(str, arguments)])
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


def test_it_converts_and_says_what_to_type_next(capsys, source, tmp_path):
    target = tmp_path / "target"
    assert run(capsys, "copy", source, target) == (0, f"copied\n{target} is ready: --model copy -o checkpoint={target}\n", "")
    assert (target / "text").read_text() == "a cat"
    assert run(capsys, "copy", source, target)[1].startswith("there already\n")
    assert run(capsys, "copy", source, tmp_path / "loud", "-o", "loud=true")[0] == 0
    assert (tmp_path / "loud" / "text").read_text() == "A CAT"


def test_errors_are_a_line_and_a_way_on(capsys, source, tmp_path):
    target = tmp_path / "target"
    for arguments, said in [
        (("nothing", source, target), "there is no conversion of 'nothing'\n  there are: copy, elsewhere"),
        (("elsewhere", source, target), "needs no_such_module\n  pip install 'synthvlm[transformers]'"),
        (("copy", source, target, "-o", "loudness=1"), "the conversion of copy has no option 'loudness'\n  did you mean 'loud'?"),
        (("copy", source, source), "is there and holds something else"),
    ]:
        code, out, error = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert said in error
        assert not target.exists()


def test_what_fails_half_way_leaves_nothing(capsys, source, tmp_path):
    (source / "text").unlink()
    code, _, error = run(capsys, "copy", source, tmp_path / "target")
    assert code == 1  # the plugin's own fault: it did not look
    assert "FileNotFoundError" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_it_shows_what_there_is(capsys, source):
    code, out, _ = run(capsys, "copy")
    assert code == 0
    assert (
        out
        == "synthvlm convert copy SRC DST\n    A conversion as a third party's plugin has it.\n    -o loud=False  (bool)  write in capitals\n"
    )
    assert "convert copy" in run(capsys)[1]
    code, _, error = run(capsys, "copy", source)
    assert code == 2
    assert "Missing argument 'DST'" in error
