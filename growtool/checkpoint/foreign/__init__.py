"""Checkpoints in forms that growtool does not read as they are: recognised, imported, or refused with advice."""
