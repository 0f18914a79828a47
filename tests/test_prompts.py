from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synthvlm import prompts, resources
from synthvlm.errors import InputError, OptionError


def test_the_shipped_instructions() -> None:
    wordings = prompts.instructions()
    assert prompts.names("instructions") == ["llava"] and len(wordings) == 10 and "Describe this image briefly." in wordings


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("instructions: []", "something in it"),
        ("instructions: hello", "something in it"),
        ("instructions: [a]\nwording: b", "unknown field 'wording'"),
        ("description: x", "lacks the field 'instructions'"),
        ("instructions: [a]\ninstructions: [b]", "stands twice"),
        ("instructions: [a, a]", "twice"),
        ("instructions: ['look: <image>']", "<image>"),
        ("instructions: [1]", "not an instruction"),
        ("- a", "does not hold fields"),
        ("", "does not hold fields"),
        ("a: [", "cannot be read"),
        ("? [a]\n: b", "is no name of a field"),
        ("instructions: !!python/object/apply:os.getcwd []", "cannot be read"),
    ],
)
def test_a_file_is_read_strictly(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        prompts.instructions(file)
    assert "own.yaml" in caught.value.message


def test_a_name_that_is_not_there_says_what_is(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="did you mean 'llava'"):
        prompts.instructions("lava")
    with pytest.raises(OptionError, match="no file"):
        prompts.instructions(tmp_path / "none.yaml")


def test_prompts_come_from_the_wheels_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "synthvlm" / "_prompts" / "instructions"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("instructions: [hello]\n")
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "synthvlm")
    assert prompts.names("instructions") == ["mine"] and prompts.instructions("mine") == ["hello"]


def test_importing_prompts_is_light() -> None:
    code = "import sys, synthvlm.prompts; print([m for m in ('duckdb', 'pyarrow', 'pydantic', 'rich', 'plotly') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
