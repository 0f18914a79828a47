"""Pairwise preference: two sets joined into pairs (:mod:`sides`, :mod:`pairs`), judges' verdicts on them (:mod:`verdicts`, :mod:`votes`
of people), and what they come to (:mod:`statistics`, :mod:`summary`).

A comparison lies in the run as ``comparisons/<name>.parquet``, a row per pair, and ``<name>.json``, how the pairs were drawn. Each judge
of it, model or person, is a stage of its own, ``<name>.<judge>``: rows by key, so judging resumes, and pairs that stay are not judged anew.
"""
