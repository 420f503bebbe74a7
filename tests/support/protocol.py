"""A protocol of a few updates, as its file."""

import yaml

MODEL_ARGS = {"layers": [1, 1, 1, 1], "channels": [4, 8, 8, 12], "num_classes": 3, "stem_type": "deep", "stem_width": 2}


def write_protocol(path, data, **changes):
    content = {
        "model": "resnet18", "model_args": {**MODEL_ARGS, "channels": [8, 16, 16, 24], "stem_width": 4},
        "member_args": {"channels": MODEL_ARGS["channels"], "stem_width": 2},
        "train": {"data": str(data), "steps": 2, "batch_size": 6, "workers": 0, "device": "cpu", "lr": 1e-3},
        "grown": {"epochs": 1},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content | changes))
    return path
