"""What a worker does with a shard, per kind of stage: shard in, rows out."""
