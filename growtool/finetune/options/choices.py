"""The words that options of a training take. The command line needs them at once, so torch and pydantic stay out."""

from typing import Literal

AmpDtype = Literal["bfloat16", "float16"]
Annealing = Literal["linear", "cosine", "constant"]
ClipMode = Literal["norm", "value", "agc"]
CropMode = Literal["rrc", "rkrc", "rkrr"]
DecayShape = Literal["1-sqrt", "linear", "cosine", "exp"]
Engine = Literal["ddp", "fsdp"]
NewState = Literal["carried", "reset", "mean"]
Nonfinite = Literal["stop", "skip"]
Schedule = Literal["cosine", "wsd", "constant", "none"]
Tracker = Literal["tensorboard", "wandb", "trackio"]
