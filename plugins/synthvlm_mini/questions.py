"""What the miniature captioner is asked for each perspective, word for word as it was trained."""

from __future__ import annotations

QUESTIONS = {
    "detail": "Describe this image in detail.",
    "brief": "Describe this image in a few words.",
    "sentence": "Describe this image in one short sentence.",
    "nouns": "List the nouns that name what appears in this image.",
    "style": "What is the visual style of this image?",
    "background": "Describe the background of this image.",
    "main": "What is the main object in this image?",
}
