"""Put the files that captioning processes wrote together: ``python utils/merge.py PART... [--out FOLDER]``.

Writes composed.jsonl and composed_index.json ({image: caption}) into FOLDER (here by default). All parts count as one; a part may be a
pattern in quotation marks. ``synthvlm merge --help`` says what a part may look like and what else there is.
"""

import argparse

from synthvlm.cli import main

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("parts", nargs="+", metavar="PART")
parser.add_argument("--out", default=".", metavar="FOLDER")
given = parser.parse_args()
main(["merge", "--composed", given.out, "--", *(f"composed={part}" for part in given.parts)])
