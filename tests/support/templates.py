"""Checkpoints in template form."""

from growtool.checkpoint import build, open_checkpoint
from growtool.library.timm import input_size
from growtool.templates.convert import write_decomposed
from growtool.templates.decompose import Request, decompose
from growtool.trace import trace_model

EXACT = {"raw": Request("raw"), "halves": Request("sub_block", parts=2)}


def to_templates(source, request, out):
    """The template form of a folder, and its reports."""
    checkpoint = open_checkpoint(source)
    model = build(checkpoint.spec)
    found = decompose(request, model, trace_model(model, input_size(model)), checkpoint.tensors, checkpoint.read)
    exact = request.kind in ("raw", "sub_block")
    write_decomposed(out, checkpoint, model, found, exact=exact)
    return open_checkpoint(out), found.reports
