"""Deciding which captions to keep: the rules, duplicates over the whole pool, the LLM judge's verdicts, what is told of it all."""
