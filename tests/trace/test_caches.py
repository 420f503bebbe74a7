"""A second trace of an architecture is like the first, whatever functions remember of it."""

import functools
import types

import torch
from torch import nn

from growtool.trace import trace_model


@functools.cache
def coordinates(count):
    return torch.arange(count, dtype=torch.float32, device="meta") * 2


def wrapped(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)

    return inner


remembered = wrapped(coordinates)
del coordinates  # known by its wrapper alone, as transformers has it


class Placed(nn.Module):
    def forward(self, x):
        return x + remembered(x.shape[1])


def test_functions_that_remember_are_asked_anew():
    first, second = (trace_model(Placed(), (4,)).signatures[""] for _ in range(2))
    assert first == second and len(first) > 1


def test_a_class_whose_module_is_not_there_is_traced():
    made = types.new_class("Made", (nn.ReLU,))
    made.__module__ = "no.such.module"
    assert trace_model(made(), (4,)).signatures[""]
