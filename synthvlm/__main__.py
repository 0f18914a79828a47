"""``python -m synthvlm``."""

from synthvlm.cli import main

main()
