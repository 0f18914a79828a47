"""How InternVL2 is talked to: as in its own ``chat()``, in every engine."""

from __future__ import annotations

SYSTEM = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
"""The system text that InternVL2 was trained with: it tells the model its name and who made it."""
END = "<|im_end|>"
"""Ends each turn, the answer too. No line break follows it, unlike in ChatML elsewhere."""
IMAGE = "<IMG_CONTEXT>"
"""Stands for an image in the converted checkpoint; the original's code, which vLLM follows, has ``<image>``."""

TEMPLATE = (
    # Servers tokenise what a template gives as it is; the tokenizer of the 1B model has no such token.
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% if messages[0].role != 'system' %}<|im_start|>system\n" + SYSTEM + END + "{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% set images = message.content | selectattr('type', 'equalto', 'image') | list | length %}{% set seen = namespace(images=0) %}"
    "{% for part in message.content %}{% if part.type == 'image' %}{% set seen.images = seen.images + 1 %}"
    "{% if images > 1 %}Image-{{ seen.images }}: {% endif %}"
    + IMAGE
    + "\n{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}" + END + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The same as a chat template, for the converted directory. (transformers' Jinja drops the line break after a block, so none stands there.)"""


def conversation(prompt: str, images: int, image: str = IMAGE) -> str:
    """Return the text up to where the answer begins. Of several images each has its number, as InternVL2's authors show it."""
    pictures = f"{image}\n" if images == 1 else "".join(f"Image-{n}: {image}\n" for n in range(1, images + 1))
    # A caption that is quoted in a prompt may hold a placeholder of its own, as LLaVA's data do: the image would be looked for there.
    question = prompt.replace(image, "")
    return f"<|im_start|>system\n{SYSTEM}{END}<|im_start|>user\n{pictures}{question}{END}<|im_start|>assistant\n"
