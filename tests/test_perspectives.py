"""Perspectives as data: read strictly, worded for a family, quoting a sample's fields, known by a digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthvlm import perspectives, prompts
from synthvlm.errors import InputError, OptionError
from synthvlm.perspectives import RenderError, from_record, load, quoted, resolve
from synthvlm.screening import judge

SHIPPED = ["background", "brief", "detail", "main", "nouns", "sentence", "style"]


@pytest.fixture
def write(tmp_path: Path):
    def put(text: str, name: str = "mine.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text)
        return path

    return put


def test_seven_perspectives_ship():
    assert prompts.names("perspectives") == SHIPPED
    found = resolve(SHIPPED)
    assert list(found) == SHIPPED
    assert len({p.prompt for p in found.values()}) == 7
    assert found["detail"].max_new_tokens == 256
    assert found["nouns"].max_new_tokens == 64
    assert found["nouns"].rules.shape.list
    assert all(p.fields == () for p in found.values())


@pytest.mark.parametrize("family", ["", "llava", "minigpt4", "mini"])
def test_every_family_gets_a_prompt(family):
    found = resolve(SHIPPED, family)
    assert all(len(p.prompt) > 10 for p in found.values())
    assert len({p.record()["digest"] for p in found.values()}) == 7


def test_what_is_asked_of_an_answer_fits_the_prompt():
    found = resolve(SHIPPED)
    good = {
        "detail": "A brown dog lies on a striped mat in front of a white wall. The light is soft.",
        "brief": "a dog on a mat",
        "sentence": "A brown dog lies on a striped mat.",
        "nouns": "dog, mat, wall",
        "style": "A plain photograph in soft, warm light with a calm mood.",
        "background": "A white wall in soft light.",
        "main": "a brown dog",
    }
    for name, answer in good.items():
        verdict = judge(answer, "stop", found[name].prompt, found[name].rules)
        assert (verdict.text, verdict.flags, verdict.problem) == (answer, (), None), name
    assert judge(good["detail"], "stop", "", found["nouns"].rules).problem == "shape"
    assert judge("A calm photo of two dogs.", "stop", "", found["style"].rules).problem == "shape"
    assert judge(good["detail"], "stop", "", found["brief"].rules).flags == ("length",)


def test_a_file_of_ones_own(write):
    path = write(
        "prompt: |\n  Say it in German.\nfamilies:\n  llava: On German, please.\n  other: {prompt: Deutsch, max_new_tokens: 9}\n"
        "max_new_tokens: 12\nrepetition_penalty: 1.1\nscript: any\nchecks: {min_words: 2, without: [Hund]}\npolicy: {cut: fail}\n"
    )
    mine = load(path)
    assert (mine.name, mine.prompt, mine.max_new_tokens, mine.repetition_penalty) == ("mine", "Say it in German.", 12, 1.1)
    assert (mine.rules.script, mine.rules.shape.min_words, mine.rules.shape.without) == ("any", 2, ("hund",))
    assert (mine.rules.policy["cut"], mine.rules.policy["loop"]) == ("fail", "retry")
    assert (load(path, "llava").prompt, load(path, "llava").max_new_tokens) == ("On German, please.", 12)
    assert (load(path, "other").prompt, load(path, "other").max_new_tokens) == ("Deutsch", 9)
    assert list(resolve([path, "detail"])) == ["mine", "detail"]


def test_a_folder_of_ones_own(write, tmp_path):
    write("prompt: One?", "mine/one.yaml")
    write("prompt: Two?", "mine/two.yml")
    write("nothing", "mine/readme.md")
    assert {n: p.prompt for n, p in resolve([str(tmp_path / "mine")]).items()} == {"one": "One?", "two": "Two?"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="there is no perspective in the folder"):
        resolve([tmp_path / "empty"])


def test_a_folder_does_not_hide_a_perspective_that_ships(tmp_path, monkeypatch):
    (tmp_path / "detail").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(["detail"])["detail"].max_new_tokens == 256


def test_names_that_are_none(write):
    with pytest.raises(OptionError, match="perspectives has no 'detial'") as error:
        resolve(["detial"])
    assert "did you mean 'detail'?" in str(error.value)
    with pytest.raises(OptionError, match=r"there is no file .*none\.yaml"):
        resolve(["none.yaml"])
    with pytest.raises(OptionError, match="two perspectives are named 'detail'"):
        resolve(["detail", write("prompt: x", "detail.yaml")])
    with pytest.raises(OptionError, match="no perspective is asked for"):
        resolve([])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("description: x", "lacks the field 'prompt'"),
        ("prompt: ''", "prompt is not a str with something in it"),
        ("prompt: [a]", "prompt is not a str"),
        ("prompt: x\nmax_tokens: 3", "unknown field 'max_tokens'"),
        ("prompt: x\nprompt: y", "'prompt' stands twice"),
        ("prompt: x\nmax_new_tokens: many", "max_new_tokens is not a int"),
        ("prompt: x\nmax_new_tokens: true", "max_new_tokens is True"),
        ("prompt: x\nmax_new_tokens: -1", "max_new_tokens is -1"),
        ("prompt: x\nrepetition_penalty: 0.5", "repetition_penalty is 0.5"),
        ("prompt: x\nscript: klingon", "script is 'klingon'"),
        ("prompt: x\nchecks: {words: 3}", "checks has an unknown field 'words'"),
        ("prompt: x\nchecks: {min_words: few}", "checks.min_words is 'few', not a int"),
        ("prompt: x\nchecks: {list: 1}", "checks.list is 1, not a bool"),
        ("prompt: x\nchecks: {without: [1]}", r"checks.without is \(1,\), not a list of words"),
        ("prompt: x\npolicy: {cut: drop}", "policy.cut is 'drop'; it may be: trim, retry, fail, keep"),
        ("prompt: x\npolicy: {empty: keep}", "policy.empty is 'keep'; it may be: retry, fail"),
        ("prompt: x\npolicy: {ugly: fail}", "policy.ugly is 'fail'; it may be: no such problem"),
        ("prompt: x\nfamilies: {llava: 3}", "families.llava is neither a prompt nor"),
        ("prompt: x\nfamilies: {llava: {script: any}}", "families.llava is neither a prompt nor"),
        ("prompt: x\nfamilies: {llava: {prompt: 3}}", "families.llava is neither a prompt nor"),
        ("prompt: What about {{ caption", "the prompt is no template"),
        ("prompt: '{% if caption %}x'", "the prompt is no template"),
    ],
)
def test_a_file_is_read_strictly(write, text, words):
    path = write(text)
    with pytest.raises(InputError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_a_prompt_quotes_the_fields_of_the_sample(write):
    mine = load(
        write("prompt: 'It was called \"{{ caption }}\" by {{ author.name }}{% if year is defined %} in {{ year }}{% endif %}. Better?'")
    )
    assert mine.fields == ("author", "caption", "year")
    row = {"id": "7", "caption": "a dog", "image": "x.jpg", "meta": '{"author": {"name": "Ann"}, "other": 1}'}
    fields = quoted(mine.record(), row)
    assert fields == {"author": {"name": "Ann"}, "caption": "a dog", "year": None}
    assert mine.render(fields) == 'It was called "a dog" by Ann. Better?'
    assert mine.render(fields | {"year": 1999}) == 'It was called "a dog" by Ann in 1999. Better?'
    with pytest.raises(RenderError, match="'caption' is undefined"):
        mine.render(fields | {"caption": None})
    with pytest.raises(RenderError, match="has no attribute 'name'"):
        mine.render(fields | {"author": {}})


def test_what_jinja_brings_is_no_field(write):
    assert load(write("prompt: '{% for n in range(2) %}{{ id }}{% endfor %}'")).fields == ("id",)


@pytest.mark.parametrize("attack", ["{{ caption.__class__.__mro__ }}", "{{ ''.__class__.__subclasses__() }}", "{{ caption.append(1) }}"])
def test_a_template_is_in_a_sandbox(write, attack):
    mine = load(write(f'prompt: "{attack}"'))
    with pytest.raises(RenderError):
        mine.render({"caption": ["a"]})


def test_presets_and_limits():
    assert {p.max_new_tokens for p in resolve(SHIPPED, preset="clip-training").values()} == {77}
    assert {p.max_new_tokens for p in resolve(SHIPPED, max_new_tokens=9).values()} == {9}
    assert {p.max_new_tokens for p in resolve(SHIPPED, preset="clip-training", max_new_tokens=9).values()} == {9}


def test_the_record_gives_the_perspective_back():
    for p in resolve(SHIPPED).values():
        assert from_record(p.record()) == p
        assert from_record(p.record()).record() == p.record()


def test_the_digest_tells_of_whatever_changes_the_captions(write, monkeypatch):
    def digest(text: str, name: str = "a.yaml", family: str = "") -> str:
        return load(write(text, name), family).record()["digest"]

    base = "prompt: x\nfamilies: {llava: y}\nchecks: {min_words: 2}"
    same = digest(base)
    assert digest(base + "\ndescription: other", "b.yaml") == same, "neither name nor description count"
    assert digest("prompt: x\nmax_new_tokens: 256\nchecks: {min_words: 2}") == same, "what is said is what is meant by default"
    others = [
        digest("prompt: z\nchecks: {min_words: 2}"),
        digest(base, family="llava"),
        digest(base + "\nmax_new_tokens: 7"),
        digest(base + "\nrepetition_penalty: 1.2"),
        digest(base + "\nscript: any"),
        digest(base + "\npolicy: {cut: keep}"),
        digest("prompt: x\nchecks: {min_words: 3}"),
    ]
    monkeypatch.setattr(perspectives.screening, "REVISION", 99)
    assert len({same, *others, digest(base)}) == 9
