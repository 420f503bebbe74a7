"""What a library makes of tensors is made once, whoever asks for it."""

import time
from concurrent.futures import ThreadPoolExecutor

import torch

from growtool.library.taking import made_once


def test_threads_that_ask_at_once_are_given_what_one_of_them_made():
    made = []

    def make():
        made.append(len(made))
        time.sleep(0.05)  # as long as others need to ask, too
        return {"weight": torch.ones(2), "bias": torch.zeros(2)}

    tensors = made_once(("weight", "bias"), make)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: tensors[name](), ("weight", "bias") * 4))
    assert made == [0]
    assert all(torch.equal(tensor, torch.ones(2)) for tensor in found[::2])
