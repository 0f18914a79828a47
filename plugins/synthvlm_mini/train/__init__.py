"""Train, evaluate and document the miniature models: ``python -m synthvlm_mini.train``.

``world → tokenizers → towers → clip → captioner → autoencoder → generator``, and a checker that has a part in none of them.
"""
