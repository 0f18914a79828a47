"""The parts of :mod:`synthvlm.merge`: reading captions of any form, joining them by image, writing lines."""
