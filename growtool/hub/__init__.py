"""The Hugging Face hub: names of checkpoints, and their files in the cache of `huggingface_hub`."""
