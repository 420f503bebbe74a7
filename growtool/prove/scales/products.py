"""What sums of products make of factors: matrix products, convolutions, attention. See `prove.scales.rules`."""

from __future__ import annotations

import torch

from growtool.prove.scales.scale_pass import ScalePass
from growtool.prove.scales.values import Factors, along
from growtool.trace.reading.factors import Product, product_of
from growtool.trace.steps import Step


def multiplied(scales: ScalePass, step: Step) -> Factors:
    """A matrix product, `a [..., M, K] b [..., K, N]` or with a vector for either: one factor along K.

    What copies along K bring in is multiplied onto the weight, if one operand is a weight: there its split takes it
    back, position by position.
    """
    product = product_of(step, scales.trace.forward)
    assert product is not None
    made_of = scales.trace.forward.made_of
    a, b = map(scales.of, product.operands)
    a_ndim, b_ndim = (len(scales.shape(number)) for number in product.operands)
    K = -min(b_ndim, 2)  # the dimension of b that is summed over
    over = _over(scales, step, product)
    if made_of.get(product.operands[0]) and not made_of.get(product.operands[1]):
        a = scales.values.product(a, over)
    else:
        b = scales.values.product(b, along(over, -K - 1))
    a, b = scales.values.summed(a, [-1]), scales.values.summed(b, [K])
    # [..., M] and [..., N] broadcast to [..., M, N]
    a = a if isinstance(a, int) or b_ndim == 1 else a.unsqueeze(-1)
    b = b if isinstance(b, int) or a_ndim == 1 else b.unsqueeze(-2)
    factors = scales.values.product(a, b)
    if step.kwargs.keys() & {"alpha", "beta"}:
        factors = scales.values.product(factors, _alpha(scales, step))
    return factors if product.bias is None else scales.values.require_equal(factors, scales.of(product.bias))


def _alpha(scales: ScalePass, step: Step) -> Factors:
    """Return what `alpha` of `beta bias + alpha (a b)` brings in, where `beta` is that of the source."""

    def alpha_of(matmul: Step) -> float | None:
        same_beta = matmul.kwargs.get("beta", 1) == step.kwargs.get("beta", 1)
        return matmul.kwargs.get("alpha", 1) if same_beta else None

    return scales.number(step, alpha_of)


def _over(scales: ScalePass, step: Step, product: Product) -> Factors:
    """Return what a sum over copied channels multiplies by; a weight that is split among them divides by the same."""
    left, right = product.summed
    for number, axis in zip(reversed(product.operands), (right, left), strict=True):
        if scales.trace.forward.made_of.get(number):
            return scales.over_weight(step, number, axis)
    factors = scales.over_jointly("product", step, left)
    if left != right:  # copies of different channels meet
        scales.values.require_one(factors)
    return factors


def convolved(scales: ScalePass, step: Step) -> Factors:
    """A convolution of x [B, I, ...] with W [O, I / groups, ...], transposed W [I, O / groups, ...]."""
    product = product_of(step, scales.trace.forward)
    assert product is not None
    x, W = product.operands
    transposed, groups, out_shape = step.args[6], step.args[8], scales.shape(step.outs[0])
    x_ndim, W_ndim = len(scales.shape(x)), len(scales.shape(W))
    of_x, of_W, over = scales.of(x), scales.of(W), _over(scales, step, product)
    summed, kept = (0, 1) if transposed else (1, 0)
    if groups == 1 or not transposed:
        of_W = scales.values.product(of_W, along(over, W_ndim - summed - 1))
        of_W = scales.values.summed(of_W, [dim - W_ndim for dim in range(W_ndim) if dim != kept])
    else:  # the rows of W are channels of all groups, those of the result are not in its columns
        of_W = scales.values.product(scales.values.require_uniform(of_W), scales.values.require_uniform(over))
    if isinstance(of_x, torch.Tensor) and groups == scales.shape(x)[1] and not transposed:
        # depthwise: each channel keeps its factor, in as many channels of the result as are made of it
        of_x = scales.values.summed(of_x, [dim - x_ndim for dim in range(x_ndim) if dim != 1])
        of_x = of_x if isinstance(of_x, int) else of_x.repeat_interleave(out_shape[1] // groups)
    else:
        of_x = scales.values.require_uniform(of_x)
    factors = scales.values.product(of_x, of_W)
    factors = factors if product.bias is None else scales.values.require_equal(factors, scales.of(product.bias))
    return along(factors, len(out_shape) - 2)


def attended(scales: ScalePass, step: Step) -> Factors:
    """Fused attention: no factor on q k, and no copies along the head size, which its own scale depends on."""
    query, key, value, *others = step.ins
    q, k, v = (scales.values.require_uniform(scales.of(number)) for number in (query, key, value))
    over = scales.over_jointly("product", step, scales.axis(query, -1))
    scales.values.require_one(scales.values.product(q, k), over)
    scales.require_unscaled(step, others)
    scales.note_joint("softmax", step, key, [-2])
    return v
