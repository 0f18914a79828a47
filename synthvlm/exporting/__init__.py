"""The parts of :mod:`synthvlm.export`: which pairs, what each format says of them, files and shards, the data card, the Hub."""
