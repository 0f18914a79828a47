"""A miniature world with its own small models: the whole line in seconds on a laptop, to try things and to test plugins."""
