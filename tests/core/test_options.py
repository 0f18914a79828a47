"""Options are data: read strictly, from the command line or typed; identity, runtime or checkpoint; hashed the same everywhere."""

from __future__ import annotations

import enum
import json
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from synthvlm.errors import OptionError
from synthvlm.options import as_dict, build, checkpoint, describe, digest, option, runtime


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Painter:
    """Every kind of option."""

    weights: str = checkpoint("org/painter", layout="diffusers")
    vae: str | None = checkpoint(None)
    steps: int = option(30, help="denoising steps", ge=1, le=200)
    guidance: float = option(7, help="guidance scale", ge=0)
    rescale: float | None = None
    negative_prompt: str = ""
    note: str | None = None
    dtype: Literal["auto", "float16", "float32"] = "auto"
    refine: bool = False
    sizes: tuple[int, ...] = (64, 64)
    layers: list[str] = option(["a"])
    extra: dict[str, Any] = option({})
    colour: Colour = Colour.RED
    offload: bool = runtime(False, help="keep idle parts off the device")
    cache: Path = runtime(Path("/tmp/cache"))

    output_revision: ClassVar[int] = 3
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"steps": 60}, "fast": {"steps": "4", "guidance": 0}}

    def load(self, devices):
        raise AssertionError("nothing loads")


def make(preset: str | None = None, **values: Any) -> Painter:
    return build(Painter, values, "painter", preset)


def test_defaults():
    assert make() == Painter(guidance=7.0)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("steps", "12", 12),
        ("guidance", "3.5", 3.5),
        ("guidance", 3, 3.0),
        ("rescale", "0.7", 0.7),
        ("refine", "true", True),
        ("refine", "no", False),
        ("dtype", "float16", "float16"),
        ("negative_prompt", "blurry, = and {braces}", "blurry, = and {braces}"),
        ("sizes", [8, "16"], (8, 16)),
        ("layers", ["x", "y"], ["x", "y"]),
        ("extra", {"a": {"b": [1, None]}}, {"a": {"b": [1, None]}}),
        ("colour", "blue", Colour.BLUE),
        ("cache", "/elsewhere", Path("/elsewhere")),
    ],
)
def test_values_come_as_text_or_typed(name, given, expected):
    found = getattr(make(**{name: given}), name)
    assert found == expected
    assert type(found) is type(expected)


def test_dashes_are_underscores():
    assert build(Painter, {"negative-prompt": "grain"}, "painter").negative_prompt == "grain"


@pytest.mark.parametrize("text", ["none", "None", "null", "NULL", ""])
def test_none_can_be_written_where_it_is_allowed(text):
    assert make(rescale=text).rescale is None
    assert make(note=text).note is None
    assert make(vae=text).vae is None


def test_none_is_text_where_only_text_is_allowed():
    assert make(negative_prompt="none").negative_prompt == "none"
    with pytest.raises(OptionError, match="option steps='none' is not right"):
        make(steps="none")


def test_an_unknown_option_names_the_model_and_the_close_one():
    with pytest.raises(OptionError, match=r"painter has no option 'stesp'") as error:
        make(stesp=3)
    assert error.value.hint == "did you mean 'steps'?"
    with pytest.raises(OptionError) as error:
        make(zzz=3)
    assert error.value.hint == "it has: " + ", ".join(i.name for i in describe(Painter))


@pytest.mark.parametrize(
    ("name", "value", "wants"),
    [
        ("steps", "many", "int"),
        ("steps", "3.5", "int"),
        ("steps", [3], "int"),
        ("steps", None, "int"),
        ("guidance", "high", "float"),
        ("refine", "perhaps", "bool"),
        ("negative_prompt", 5, "str"),
        ("rescale", "x", "float | none"),
        ("dtype", "float8", "auto | float16 | float32"),
        ("extra", "{", "dict"),
        ("colour", "green", "Colour"),
    ],
)
def test_an_ill_typed_value_says_what_is_wanted(name, value, wants):
    with pytest.raises(OptionError) as error:
        make(**{name: value})
    assert f"painter: option {name}={value!r} is not right" in error.value.message
    assert error.value.hint is not None
    assert error.value.hint.startswith(f"it wants {wants}")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("steps", 0, "greater than or equal to 1"),
        ("steps", "201", "less than or equal to 200"),
        ("guidance", -1, "greater than or equal to 0"),
    ],
)
def test_out_of_range(name, value, reason):
    with pytest.raises(OptionError, match=reason):
        make(**{name: value})


def test_presets_lie_under_what_is_given():
    assert make("paper").steps == 60
    assert make("paper", steps=5).steps == 5
    assert (make("fast").steps, make("fast").guidance) == (4, 0.0)


def test_an_unknown_preset_lists_those_there_are():
    with pytest.raises(OptionError, match="painter has no preset 'slow'") as error:
        make("slow")
    assert error.value.hint == "it has: paper, fast"

    @dataclass(frozen=True)
    class Plain:
        def load(self, devices): ...

    with pytest.raises(OptionError) as error:
        build(Plain, {}, "plain", "paper")
    assert error.value.hint == "it has none"
    with pytest.raises(OptionError) as error:
        build(Plain, {"x": 1}, "plain")
    assert error.value.hint == "it has: no options"


def test_an_option_without_default_must_be_given():
    @dataclass(frozen=True)
    class Needy:
        url: str

        def load(self, devices): ...

    with pytest.raises(OptionError, match="needy needs the option 'url'") as error:
        build(Needy, {}, "needy")
    assert error.value.hint == "give it with -o url=…"
    assert build(Needy, {"url": "x"}, "needy").url == "x"


def test_a_models_own_check_is_an_option_error():
    @dataclass(frozen=True)
    class Picky:
        width: int = 64

        def __post_init__(self):
            if self.width % 8:
                raise ValueError("width must be a multiple of 8")

        def load(self, devices): ...

    with pytest.raises(OptionError, match="picky: width must be a multiple of 8"):
        build(Picky, {"width": 60}, "picky")


def test_roles():
    roles = {info.name: info.role for info in describe(Painter)}
    assert {n for n, r in roles.items() if r == "checkpoint"} == {"weights", "vae"}
    assert {n for n, r in roles.items() if r == "runtime"} == {"offload", "cache"}
    assert roles["rescale"] == roles["steps"] == "identity", "a plain default is identity too"
    assert "output_revision" not in roles
    assert {i.name: i.layout for i in describe(Painter) if i.role == "checkpoint"} == {"weights": "diffusers", "vae": "any"}


def test_as_dict_divides_by_role():
    painter = make(steps=5, offload=True)
    assert as_dict(painter, ["runtime"]) == {"offload": True, "cache": "/tmp/cache"}
    assert as_dict(painter, ["checkpoint"]) == {"weights": "org/painter", "vae": None}
    assert as_dict(painter, ["identity"]).keys() == {i.name for i in describe(Painter)} - {"offload", "cache", "weights", "vae"}
    assert as_dict(painter).keys() == {i.name for i in describe(Painter)}


def test_what_a_run_records_is_what_it_reads_back_and_makes_the_same_options():
    painter = make(sizes=[8, 8], extra={"k": (1, 2)}, colour="blue")
    recorded = as_dict(painter)
    assert json.loads(json.dumps(recorded)) == recorded, "else a resumed run would see a difference"
    again = build(Painter, recorded, "painter")
    assert as_dict(again) == recorded
    assert (again.sizes, again.colour, again.cache) == ((8, 8), Colour.BLUE, Path("/tmp/cache"))


def test_an_option_given_as_its_default_is_the_same_identity():
    assert digest(as_dict(make(guidance="7", sizes=[64, 64], steps="30"))) == digest(as_dict(make()))


def test_mutable_defaults_are_not_shared():
    make().layers.append("b")
    assert make().layers == ["a"]


def test_options_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        make().steps = 3  # type: ignore[misc]


def test_types_are_named_as_a_user_reads_them():
    names = {info.name: info.type_name for info in describe(Painter)}
    assert names["steps"] == "int"
    assert names["rescale"] == "float | none"
    assert names["dtype"] == "auto | float16 | float32"


def test_the_digest_is_stable():
    """A changed digest makes every row of every run anew: these literals must never change."""
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    data = {"b": [1, 2.5, None, True], "a": {"é": "中文", "z": ""}}
    assert digest(data) == digest(json.loads(json.dumps(data))) == "6b5245464f71cb23e67116c532ab92c19e3e9881ef9ff7ebdc6d4e8894710af7"
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert digest({"a": 1}) != digest({"a": 1.5}) != digest({"a": "1"})
