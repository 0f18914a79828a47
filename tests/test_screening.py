"""Answers as captioners give them: what is cleaned off, what is trimmed, what is set aside and what must be left alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synthvlm import screening
from synthvlm.cleaning import as_list, clean
from synthvlm.screening import Rules, Shape, judge, loop, refuses, script_share, whole_sentences

PROMPT = "Describe this image in detail."
DOG = "A brown dog lies on a striped mat."
LIST = Rules(shape=Shape(list=True))


def policy(**changes: str) -> Rules:
    return Rules(policy={**screening.POLICY, **changes})


# --- cleaning -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        (DOG, []),
        (f"  {DOG}\n", []),
        (f'"{DOG}"', ["unwrapped"]),
        (f"“{DOG}”", ["unwrapped"]),
        (f"'{DOG}'", ["unwrapped"]),
        (f"**{DOG}**", ["markup"]),
        ("A *brown* dog lies on a __striped__ mat.", ["markup"]),
        ("A `brown` dog lies on a striped mat.", ["markup"]),
        (f"### {DOG}", ["markup"]),
        (f"```\n{DOG}\n```", ["markup"]),
        (f"```text\n{DOG}\n```", ["markup"]),
        (f"- {DOG}", ["markup"]),
        (f"1. {DOG}", ["markup"]),
        (f"Sure! {DOG}", ["preamble"]),
        (f"Certainly, {DOG}", ["preamble"]),
        (f"Of course! Here's a detailed description of the image:\n\n{DOG}", ["preamble"]),
        (f"Sure, here is the caption: {DOG}", ["preamble"]),
        (f'Here is a one-sentence description: "{DOG}"', ["preamble", "unwrapped"]),
        (f"Below is a description of what I see: {DOG}", ["preamble"]),
        (f"Caption: {DOG}", ["preamble"]),
        (f"Image description: {DOG}", ["preamble"]),
        (f"Detailed description of the image: {DOG}", ["preamble"]),
        (f"ASSISTANT: {DOG}", ["preamble"]),
        (f'Sure! Here is a caption: "Caption: {DOG}"', ["preamble", "unwrapped"]),
        (f"Natürlich, hier ist die Beschreibung: {DOG}", ["preamble"]),
        (f"Bien sûr ! Voici une description : {DOG}", ["preamble"]),
        (f"Claro, aquí tienes una descripción de la imagen: {DOG}", ["preamble"]),
        (f"当然！以下是对图片的描述：{DOG}", ["preamble"]),
        (f"好的，{DOG}", ["preamble"]),
        (f"{DOG} I hope this helps!", ["afterword"]),
        (f"{DOG} Let me know if you need anything else.", ["afterword"]),
        (f"{DOG}\n\nIf you have any further questions, feel free to ask!", ["afterword"]),
        (f"{PROMPT} {DOG}", ["echo"]),
        (f"describe this  image\nin detail.\n{DOG}", ["echo"]),
        (f"{DOG}<|im_end|>", []),
        (f"{DOG}</s>", []),
        (f"\ufeff{DOG}\u200b", []),
    ],
)
def test_what_is_no_part_of_the_caption_is_taken_off(answer, flags):
    assert clean(answer, PROMPT) == (DOG, flags)


@pytest.mark.parametrize(
    "text",
    [
        "Sure-footed goats climb a cliff.",
        "The Great Wall winds over green hills.",
        "Great Wall of China, seen from a tower.",
        'A sign reads "Closed" and another "Open".',
        '"Stop" says the sign, "or else".',
        "'Tis the season' is written on the shop's window in white.",
        "This is a photo of a sign that reads: STOP",
        "Here are three cats: one black, two white.",
        "3 dogs run. 2.5 metres of rope lie beside them.",
        "A 2*3 grid of photos, with *.jpg written below.",
        "A clock shows 12:30; the date is 1. May.",
        "snake_case stands on a screen",
        "A man says: let me know.",
        "An e-mail reads: call me <soon>.",
        "一只棕色的狗躺在垫子上。",
        "کتاب‌ها روی میز هستند.",
        "A family emoji 👨‍👩‍👧 on a screen.",
    ],
)
def test_what_is_the_caption_stays(text):
    assert clean(text, PROMPT) == (text, [])


def test_lines_become_one():
    assert clean("A dog.\n\nA mat.")[0] == "A dog. A mat."
    assert clean("The image shows:\n- a dog\n- a mat\n* a wall")[0] == "The image shows: a dog, a mat, a wall"
    assert clean("1. A dog lies there.\n2. A cat sits.")[0] == "A dog lies there. A cat sits."


@pytest.mark.parametrize(
    ("answer", "items", "flags"),
    [
        ("dog, mat, wall", "dog, mat, wall", []),
        ("dog, mat, and wall.", "dog, mat, wall", []),
        ("dog, mat and traffic light", "dog, mat, traffic light", []),
        ("dog and mat", "dog, mat", []),
        ("dog", "dog", []),
        ("Dog; mat; dog", "Dog, mat", ["repeats"]),
        ("狗、猫和树", "狗, 猫, 树", []),
        ("Hund, Katze und Maus", "Hund, Katze, Maus", []),
        ("dog, , mat,", "dog, mat", []),
    ],
)
def test_a_list_is_one(answer, items, flags):
    assert as_list(answer) == (items, flags)


@pytest.mark.parametrize(
    "answer",
    [
        "1. dog\n2. mat\n3. wall",
        "- dog\n- mat\n- wall",
        "• dog\n• mat\n• wall",
        "dog\nmat\nwall",
        "Here are the nouns in the image:\n\n* dog\n* mat\n* wall",
        "Nouns: dog, mat, wall",
        "**dog**, **mat**, **wall**",
    ],
)
def test_lists_in_any_form(answer):
    verdict = judge(answer, "stop", "List the nouns.", LIST)
    assert (verdict.text, verdict.problem) == ("dog, mat, wall", None)


# --- refusals -------------------------------------------------------------------------------------------------------------

REFUSALS = [
    "I'm sorry, but I can't assist with that request.",
    "I’m sorry, but I can’t help with identifying people.",
    "Sorry, I cannot describe this image.",
    "I'm sorry. I don't have the ability to see images.",
    "I am sorry, but there is no image attached.",
    "I apologize, but I am unable to view images.",
    "Unfortunately, I can't process the picture.",
    "I cannot provide a description of this image.",
    "I can't see the image you are referring to.",
    "I am unable to view or describe the image.",
    "I'm not able to identify the person.",
    "I don't have the ability to see images.",
    "I do not see any image in your message.",
    "I don't see an image. Could you upload it?",
    "As an AI language model, I do not have eyes.",
    "As an AI, I can only read text.",
    "I'm an AI assistant and cannot see pictures.",
    "There is no image to describe.",
    "No image was provided.",
    "The image has not been provided.",
    "Your image did not load.",
    "Please provide the image you would like me to describe.",
    "Could you please upload the picture again?",
    "This request goes against my guidelines.",
    "抱歉，我无法查看图片。",
    "对不起，我不能描述这张图片。",
    "很抱歉，我没有看到图片。",
    "作为一个人工智能，我看不到图片。",
    "我无法看到您上传的图片。",
    "请提供图片。",
    "申し訳ありませんが、画像を表示できません。",
    "죄송합니다. 이미지를 볼 수 없습니다.",
    "Es tut mir leid, aber ich kann das Bild nicht sehen.",
    "Leider kann ich dieses Bild nicht beschreiben.",
    "Je suis désolé, mais je ne peux pas voir l'image.",
    "Lo siento, pero no puedo ver la imagen.",
    "Desculpe, não posso ver a imagem.",
    "Mi dispiace, ma non posso vedere l'immagine.",
    "Извините, но я не могу описать это изображение.",
    "عذرًا، لا يمكنني رؤية الصورة.",
]
HARMLESS = [
    DOG,
    "There is a picture on the wall.",
    "There is an image of a saint above the altar.",
    "The image does not show any people.",
    "The image was taken at night.",
    "A sign reads 'Sorry, we are closed'.",
    "Sorry, we are closed, says a sign on the door.",
    "A robot stands there as an AI mascot.",
    "I Love New York is printed on a shirt.",
    "It is not clear whether the dog sleeps.",
    "No people can be seen on the beach.",
    "No image stabilisation: the photo is blurred.",
    "Please do not feed the ducks, a board asks.",
    "This content creator films herself.",
    "A boy apologizes to his sister.",
    "Unfortunately for the mouse, the cat is awake.",
    "一个男孩向妹妹说对不起。",
    "Lo siento está escrito en la pared.",
]


@pytest.mark.parametrize("answer", REFUSALS)
def test_refusals_are_set_aside(answer):
    verdict = judge(answer, "stop", PROMPT, Rules(script="any"))
    assert (verdict.problem, verdict.retry) == ("refusal", False)
    assert verdict.reason.startswith("the model declined: ")


@pytest.mark.parametrize("answer", HARMLESS)
def test_what_only_sounds_like_a_refusal_is_none(answer):
    assert not refuses(answer)


# --- loops ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a tree, a tree, a tree, a tree",
        "very " * 12 + "red",
        "The dog runs. The dog runs. The dog runs.",
        "on the left is a car, on the right is a car, " * 4,
        "There is a dog in it. It sleeps. There is a dog in it. It is brown. There is a dog in it.",
        "这张图片很好看，" * 4,
        " ".join(f"the {w} and the {v} and a cat" for w in ("red", "blue") for v in ("red", "blue") for _ in range(5)),
    ],
)
def test_loops_are_found(text):
    assert loop(text)
    assert judge(text, "length", PROMPT, Rules(script="any")).problem == "loop"


@pytest.mark.parametrize(
    "text",
    [
        DOG,
        "A very, very, very big dog.",
        "Row, row, row your boat is written on it.",
        "A red car, a blue car, a green car, a white car and a black car stand in a row.",
        "On the left is a man in a hat. On the right is a man in a coat. In the middle is a man in a suit.",
        "Two cups stand on the table. Two plates stand on the table. A lamp hangs above.",
        "一只黑猫、一只白猫和一只花猫坐在一起。",
        "1 2 3 4 5 6 7 8 9",
        "ha ha ha",
        "",
    ],
)
def test_what_only_sounds_like_a_loop_is_none(text):
    assert loop(text) is None


def test_a_list_that_loops_keeps_its_items():
    verdict = judge("dog, cat, " + "tree, " * 40 + "tr", "length", "", LIST)
    assert (verdict.text, verdict.flags, verdict.problem) == ("dog, cat, tree", ("trimmed", "repeats"), None)


# --- the rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["", "  \n", "...", "“”", "<|im_end|>", PROMPT, f'"{PROMPT}"', "- "])
def test_nothing_is_empty(answer):
    assert judge(answer, "stop", PROMPT, Rules()).problem == "empty"
    assert judge(answer, "stop", PROMPT, Rules()).retry
    assert not judge(answer, "stop", PROMPT, Rules(), last=True).retry


@pytest.mark.parametrize(
    ("text", "script", "right"),
    [
        (DOG, "latin", True),
        ("Ein großer Hund schläft über dem Café.", "latin", True),
        ("A sign reads “停止” in red letters.", "latin", True),
        ("一只棕色的狗躺在垫子上。", "latin", False),
        ("Коричневая собака лежит на коврике.", "latin", False),
        ("一只棕色的狗躺在 IKEA 垫子上。", "han", True),
        ("茶色の犬がマットの上で寝ています。", "japanese", True),
        ("갈색 개가 매트 위에 누워 있다.", "korean", True),
        ("갈색 개가 매트 위에 누워 있다.", "han", False),
        ("Коричневая собака лежит на коврике.", "cyrillic", True),
        ("كلب بني يرقد على حصيرة.", "arabic", True),
        (DOG, "cyrillic", False),
        ("12:30", "cyrillic", True),
    ],
)
def test_the_writing_is_the_one_asked_for(text, script, right):
    assert (judge(text, "stop", PROMPT, Rules(script=script)).problem is None) == right
    assert (script_share(text, script) >= 0.7) == right
    assert judge(text, "stop", PROMPT, Rules(script="any")).problem is None


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("A dog runs. The cat sle", "A dog runs."),
        ("A dog runs! Does the cat sleep? It", "A dog runs! Does the cat sleep?"),
        ("A dog runs.", "A dog runs."),
        ("A dog runs with a", "A dog runs with a"),
        ("A dog of Mr. Smith runs with", "A dog of Mr. Smith runs with"),
        ("It is 2.5 metres long. It has e.g. a door and", "It is 2.5 metres long."),
        ('He says "Stop!" and then', 'He says "Stop!"'),
        ("一只狗。一只猫坐在", "一只狗。"),
    ],
)
def test_whole_sentences(text, whole):
    assert whole_sentences(text) == whole


def test_what_to_do_with_an_answer_that_was_cut():
    cut = "A dog runs. The cat sle"
    assert judge(cut, "length", PROMPT, Rules()) == screening.Verdict("A dog runs.", ("trimmed",))
    assert judge(cut, "stop", PROMPT, Rules()) == screening.Verdict(cut)
    assert judge(cut, None, PROMPT, Rules()) == screening.Verdict(cut)
    assert judge("A dog runs with", "length", PROMPT, Rules()).flags == ("cut",)
    assert judge("A dog runs.", "length", PROMPT, Rules()).flags == ()
    assert judge(cut, "length", PROMPT, policy(cut="keep")) == screening.Verdict(cut, ("cut",))
    failed = judge(cut, "length", PROMPT, policy(cut="fail"))
    assert (failed.problem, failed.retry) == ("cut", False)
    assert judge(cut, "length", PROMPT, policy(cut="retry")).retry
    assert judge(cut, "length", PROMPT, policy(cut="retry"), last=True) == screening.Verdict("A dog runs.", ("trimmed",))
    assert judge("dog, mat, wa", "length", PROMPT, LIST) == screening.Verdict("dog, mat", ("trimmed",))


@pytest.mark.parametrize(
    ("answer", "shape", "problem"),
    [
        ("The image shows a dog, a mat and a wall.", Shape(list=True), "shape"),
        (DOG, Shape(list=True), "shape"),
        ("A calm mood in warm colours.", Shape(without=("dog",)), None),
        ("A calm mood around the Dogs.", Shape(without=("dog",)), "shape"),
        ("A city mood, with two cities.", Shape(without=("city",)), "shape"),
        ("A dogged, catty mood.", Shape(without=("dog", "cat")), None),
    ],
)
def test_the_shape_that_a_perspective_asks_for(answer, shape, problem):
    assert judge(answer, "stop", "", Rules(shape=shape)).problem == problem


def test_too_few_and_too_many_words():
    few, many = Rules(shape=Shape(min_words=4)), Rules(shape=Shape(max_words=3))
    assert judge("A dog.", "stop", "", few).flags == ("length",), "kept with a remark by default"
    assert judge(DOG, "stop", "", many).flags == ("length",)
    strict = Rules(shape=Shape(max_words=3), policy={**screening.POLICY, "length": "fail"})
    assert judge(DOG, "stop", "", strict).problem == "length"
    assert judge("A dog.", "stop", "", strict).problem is None
    assert judge("狗在这里", "stop", "", Rules(shape=Shape(min_words=4), script="han")).flags == ()


@pytest.mark.parametrize("problem", list(screening.POLICY))
def test_every_policy_is_followed(problem):
    answers = {
        "empty": ("", "stop"),
        "refusal": (REFUSALS[0], "stop"),
        "loop": ("a tree, a tree, a tree, a tree", "stop"),
        "script": ("一只狗。", "stop"),
        "cut": ("A dog runs. A", "length"),
        "length": ("A dog. " * 2, "stop"),
        "shape": ("A dog and a house.", "stop"),
    }
    answer, finish = answers[problem]
    shape = Shape(max_words=3 if problem == "length" else 0, without=("house",))
    assert screening.POLICY[problem] in screening.CHOICES[problem]
    for choice in screening.CHOICES[problem]:
        rules = Rules(shape, policy={**screening.POLICY, problem: choice})
        first, last = judge(answer, finish, "", rules), judge(answer, finish, "", rules, last=True)
        assert first.retry == (choice == "retry")
        assert (last.problem is None) == (choice in ("keep", "trim") or (problem, choice) == ("cut", "retry"))
        if choice == "keep":
            assert problem in first.flags


def test_the_documentation_has_each_problem_with_its_policies():
    page = (Path(__file__).parents[1] / "docs" / "recaption.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+) \| ([\w, ]+) \|$", page, re.MULTILINE)
    assert {name: default for name, default, _ in rows} == dict(screening.POLICY)
    assert {name: tuple(may.split(", ")) for name, _, may in rows} == dict(screening.CHOICES)
