"""What only a CUDA device can show of training: one script, parts that fail alone, one report."""

import time

BEGUN = time.monotonic()  # before torch is imported, which takes its part of the minutes
