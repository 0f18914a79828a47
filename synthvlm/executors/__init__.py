"""Where shards run. Executors schedule, and nothing else: the worker is the same everywhere."""
