"""Prove growtool over transformers' families and write docs/transformers.md.

    python -m tests.zoo.texts [--only NAME ...] [--fresh] [--part K/N] [--jobs N] [--table]
    python -m tests.zoo.texts --numbers [--only NAME ...]

Besides the families of `tests.support.transformers_families` every type of the installed transformers that has a causal
or a masked language model, each with a generic small configuration, or the first variation of it that grows. Results
are kept in runs/transformers.jsonl; the page is written once all have some. The exit code is 1 where what was just
measured holds a false promise.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from growtool.report import zoo as packaged
from tests.support.transformers_families import FAMILIES, Source, config_of

from .attempt import Attempt, attempt
from .measure import TILED_AND_CLOSED, single_changes
from .sweep import of_part, options, promised_falsely, read_results, sweep, unmeasured
from .texts_table import page

RESULTS = Path("runs/transformers.jsonl")
PAGE = Path("docs/transformers.md")
FACTS = Path(packaged.__file__).with_name(packaged.TEXT_FACTS)
CHANGED_SINGLY = (
    "gpt2", "opt", "gpt-neox", "llama", "qwen2", "qwen3, tied", "mistral", "gemma", "gemma2", "phi3", "olmo2",
    "smollm3", "falcon", "bert", "modernbert", "t5", "vit", "clip", "mamba", "mixtral",
)  # fmt: skip
_BAD = ("FALSE PROMISE", "crash")
_SIZES: Mapping[str, Any] = {
    "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 64, "d_model": 48, "n_embd": 48,
    "n_head": 4, "n_layer": 2, "n_positions": 64, "num_layers": 2, "num_heads": 4, "n_layers": 2, "n_heads": 4,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "attention_heads": 4,
    "encoder_ffn_dim": 80, "decoder_ffn_dim": 80, "ffn_dim": 80, "d_ff": 80, "d_kv": 12, "dim": 48, "hidden_dim": 80,
    "embedding_size": 48, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "state_size": 8, "time_step_rank": 6,
    "entity_vocab_size": 50, "entity_emb_size": 48, "d_latents": 64, "num_latents": 16, "num_self_attends_per_block": 2,
    "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_ONE_GROUP: Mapping[str, Any] = {"n_group": 1, "topk_group": 1}  # of experts
_VARIATIONS: tuple[Mapping[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4, **_ONE_GROUP},  # attention that has no fewer heads of keys
    {"rotary_dim": 4},
    {"rotary_dim": 4, "n_head": 8},
    {"head_dim": 12},
    {"hidden_size": 64},  # heads of which a quarter is rotated
    {"attention_types": [[["global", "local"], 1]]},
    {"layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]},
    {"default_language": "en_XX", "languages": ["en_XX"]},
    {"num_hidden_layers": 4},  # kinds of blocks in turn, four of them
    {"num_hidden_layers": 4, "num_key_value_heads": 4, **_ONE_GROUP},
)
"""Of the generic configuration, tried in order until one grows."""


@dataclass(frozen=True)
class TextExample:
    """One model: a family of the list, or a type with the generic configuration, which is called by its class.

    `configs` are tried in order until one grows.
    """

    label: str
    family: str
    architecture: str
    configs: tuple[Mapping[str, Any], ...] = field(hash=False)


def examples() -> list[TextExample]:
    """The families, then every type that has a language model."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    listed = [TextExample(name, *FAMILIES[name][:2], (config_of(name),)) for name in FAMILIES]
    for names in (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        for kind, classes in sorted(names.items()):
            architecture = classes if isinstance(classes, str) else classes[0]
            takes = {*inspect.signature(CONFIG_MAPPING[kind]).parameters}
            config = {"model_type": kind, "architectures": [architecture]}
            taken = [_taken(_SIZES | varied, takes) for varied in _VARIATIONS if not varied or takes & varied.keys()]
            configs = [config | sizes for at, sizes in enumerate(taken) if sizes not in taken[:at]]
            listed.append(TextExample(architecture, kind, architecture, tuple(configs)))
    return list({example.label: example for example in listed}.values())


def _taken(sizes: Mapping[str, Any], takes: AbstractSet[str]) -> dict[str, Any]:
    return {name: value for name, value in sizes.items() if name in takes}


def measure(example: TextExample, record: dict[str, Any], save: Callable[[], None], *, singly: float) -> None:
    """Grow a model by width and by depth, and fill in `record`."""
    warnings.filterwarnings("ignore")
    started = time.process_time()
    record |= {"label": example.label, "family": example.family, "architecture": example.architecture}
    for axis in ("width", "depth"):
        record[axis] = asdict(_attempted(example, axis))
        save()
    record |= {"complete": True, "seconds": round(time.process_time() - started, 1)}
    save()


def _attempted(example: TextExample, axis: str) -> Attempt:
    """What comes of the first configuration that grows; where none does, of the first one that runs."""
    made, target, refused = [], {"scale": {axis: 2.0}}, list[Exception]()
    for config in example.configs:
        try:
            source = Source.of(config)
        except Exception as error:  # transformers builds no such model
            refused.append(error)
            continue
        made.append(attempt("scale", target, TILED_AND_CLOSED, source.checkpoint, source.model))
        if made[-1].verdict not in ("refused", "needless lossy"):
            return made[-1]
    if not made:
        raise refused[0]
    lossy = [each for each in made if each.verdict != "refused"]
    ran = [each for each in made if not any("forward pass failed" in why for why in each.reasons)]
    return (*lossy, *ran, *made)[0]


def changed_singly(family: str) -> Iterator[Attempt]:
    """What comes of each number doubled and each switch turned alone; whatever is promised is measured."""
    source = Source.of(config_of(family))
    for changed in single_changes(source.spec, source.model):
        (name,) = changed
        if name.endswith("token_id") or name == "return_dict":
            continue
        made = attempt("arguments", {"model_args": changed}, TILED_AND_CLOSED, source.checkpoint, source.model)
        made.args = changed
        yield made


def report(families: Iterable[str]) -> Iterator[str]:
    """A line on each family, one on each promise that is false, and one on all together."""
    total = Counter[str]()
    for family in families:
        found = list(changed_singly(family))
        verdicts = Counter(str(made.verdict) for made in found)
        total += verdicts
        yield f"{family}: {dict(verdicts)}"
        for made in found:
            if made.verdict in (*_BAD, "needless lossy"):
                yield f"  {made.verdict}: {made.args}: {made.error} {'; '.join(made.reasons)}"
    yield f"all: {dict(total)}"


def main() -> None:
    """Measure what is missing, then write the page."""
    parser = options("python -m tests.zoo.texts", __doc__, "families or classes", "twenty families")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    os.nice(10)
    if arguments.numbers:
        for line in report(arguments.only or CHANGED_SINGLY):
            print(line, flush=True)
        return
    RESULTS.parent.mkdir(exist_ok=True)
    wrong = 0
    if not arguments.table:
        done = set() if arguments.fresh or arguments.only else set(read_results(RESULTS))
        chosen = of_part(examples(), arguments.part)
        wanted = [e for e in chosen if e.label not in done and (not arguments.only or e.label in arguments.only)]
        for count, record in enumerate(sweep(wanted, RESULTS, measure, jobs=arguments.jobs), 1):
            wrong += promised_falsely(record)
            print(f"{count}/{len(wanted)} {_line(record)}", file=sys.stderr, flush=True)
    if not unmeasured(examples(), RESULTS):
        publish()
    sys.exit(wrong > 0)


def publish() -> None:
    """Write the page, and the facts that growtool packages."""
    results = read_results(RESULTS)
    PAGE.write_text(page(examples(), results))
    FACTS.write_text(json.dumps([family_facts(results[name]) for name in FAMILIES if name in results], indent=1) + "\n")


def family_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What growtool packages of a family."""

    def outcome(made: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("verdict", "operator", "how", "target", "native", "error", "growth")
        told = {name: made[name] for name in kept}
        return {**told, "args": list(made["args"]), "reason": "; ".join(made["reasons"])}

    named = {"family": record["label"], "architecture": record["architecture"]}
    return {**named, **{axis: outcome(record[axis]) for axis in ("width", "depth")}}


def _line(record: Mapping[str, Any]) -> str:
    if "problem" in record:
        return f"{record['label']}: {record['problem']}"
    said = (f"{axis} {record[axis]['verdict']} {record[axis]['error'] or 0:.0e}" for axis in ("width", "depth"))
    return f"{record['label']}, {record['seconds']} s, {', '.join(said)}"


if __name__ == "__main__":
    main()
