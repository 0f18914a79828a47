"""Append each index's caption to the original's: ``python utils/merge_multi_caption.py ORIGINAL.jsonl INDEX.json... [--out FILE]``.

Writes {"image": …, "caption": [c1, …, cM]} lines into FILE (output_file.jsonl by default). Every INDEX is one position, in this order.
``synthvlm merge --help`` says what the files may look like and what else there is.
"""

import argparse

from synthvlm.cli import main

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("original", metavar="ORIGINAL")
parser.add_argument("indexes", nargs="+", metavar="INDEX")
parser.add_argument("--out", default="output_file.jsonl", metavar="FILE")
given = parser.parse_args()
main(["merge", "--separate", "--out", given.out, "--", given.original, *given.indexes])
