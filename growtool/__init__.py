"""Grow pretrained timm checkpoints: wider, deeper, and computing the same function."""
