"""What only a CUDA device can show of training: one script, parts that fail alone, one report."""
