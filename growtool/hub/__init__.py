"""The Hugging Face hub: what names a checkpoint there, and its files in the cache of `huggingface_hub`."""
