"""The parts of choosing pairs: gathering the scores, ranking, diversity, sweeps. :mod:`synthvlm.select` puts them together."""
