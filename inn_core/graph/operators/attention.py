"""Attention: scaled dot products of queries and keys, masked, through softmax, times values."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, optional, refusal, together
from inn_core.graph.operators.dtypes import DTYPES, FLOAT_TYPES

_RAW, _CAPPED, _BIASED, _PROBABILITIES = range(4)
"""What the fourth output shows: `qk_matmul_output_mode`."""


def attention(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Attention of (batch, heads, sequence, width) or (batch, sequence, heads * width).

    Outputs are the result, the keys and values including past ones, and an intermediate as the node says.
    """
    names = ("query", "key", "value", "mask", "past_key", "past_value", "lengths")
    present = [name for place, name in enumerate(names) if optional(inputs, place) is not None]
    moved = together(*(tensor for tensor in inputs if tensor is not None))
    given = dict(zip(present, moved, strict=True))
    if not {"query", "key", "value"} <= set(given) or ("past_key" in given) != ("past_value" in given):
        raise refusal(node, f"its inputs {', '.join(present)} do not belong together")
    is_flat = given["query"].dim() == 3
    query = _heads(node, given["query"], "q_num_heads")
    key = _heads(node, given["key"], "kv_num_heads")
    value = _heads(node, given["value"], "kv_num_heads")
    past = 0
    if "past_key" in given:
        past = given["past_key"].shape[2]
        key = torch.cat([given["past_key"], key], 2)
        value = torch.cat([given["past_value"], value], 2)
    allowed, bias = _masks(node, query, key, past, given.get("mask"), given.get("lengths"))
    repeats = query.shape[1] // key.shape[1]
    many_keys, many_values = (heads.repeat_interleave(repeats, 1) if repeats > 1 else heads for heads in (key, value))
    scale = math.sqrt(node.attributes.get("scale") or 1 / math.sqrt(query.shape[3]))
    scores = (query * scale) @ (many_keys * scale).transpose(2, 3)
    shown = {_RAW: scores}
    cap = node.attributes.get("softcap", 0.0)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    shown[_CAPPED] = scores
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, float("-inf"))
    shown[_BIASED] = scores
    shown[_PROBABILITIES] = _probabilities(node, scores, allowed, bias).to(query.dtype)
    result = shown[_PROBABILITIES] @ many_values
    if is_flat:
        result = result.transpose(1, 2).flatten(2)
    mode = node.attributes.get("qk_matmul_output_mode", _RAW)
    if mode not in shown:
        raise refusal(node, f"qk_matmul_output_mode={mode} is unknown")
    return (result, key, value, shown[mode])


def _heads(node: Node, tensor: Tensor, count: str) -> Tensor:
    """(batch, heads, sequence, width)."""
    if tensor.dim() == 4:
        return tensor
    heads = node.attributes.get(count)
    if tensor.dim() != 3 or not heads or tensor.shape[2] % heads:
        raise refusal(node, f"shape {tuple(tensor.shape)} does not split into {count}={heads} heads")
    return tensor.reshape(*tensor.shape[:2], heads, tensor.shape[2] // heads).transpose(1, 2)


def _masks(
    node: Node, query: Tensor, key: Tensor, past: int, mask: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Which keys each query may see, and what is added to the scores; both broadcast to the scores."""
    n_queries, n_keys = query.shape[2], key.shape[2]
    rules: list[Tensor] = []
    bias: Tensor | None = None
    if mask is not None:
        missing = n_keys - mask.shape[-1]
        if mask.dtype == torch.bool:
            rules.append(functional.pad(mask, (0, missing), value=False) if missing else mask)
        else:
            bias = functional.pad(mask, (0, missing), value=float("-inf")) if missing else mask
    keys = torch.arange(n_keys, device=query.device)
    offset = torch.tensor(past, device=query.device)
    if lengths is not None:
        rules.append(keys < lengths.reshape(-1, 1, 1, 1))
        offset = lengths.reshape(-1, 1, 1, 1) - n_queries
    ahead = keys - torch.arange(n_queries, device=query.device).unsqueeze(1) - offset
    if node.attributes.get("is_causal", 0):
        rules.append(ahead <= 0)
    left, right = node.attributes.get("left_window_size", -1), node.attributes.get("right_window_size", -1)
    if left >= 0:
        rules.append(ahead >= -left)
    if right >= 0:
        rules.append(ahead <= right)
    if not rules:
        return None, bias
    allowed = rules[0]
    for rule in rules[1:]:
        allowed = allowed & rule
    return allowed, bias


def _probabilities(node: Node, scores: Tensor, allowed: Tensor | None, bias: Tensor | None) -> Tensor:
    """Softmax over keys; 0 for queries that may see none."""
    precision = node.attributes.get("softmax_precision")
    if precision is not None:
        if precision not in FLOAT_TYPES:
            raise refusal(node, f"softmax_precision={precision} is no float type")
        scores = scores.to(DTYPES[precision])
    if allowed is None and bias is None:
        return torch.softmax(scores, -1)
    visible = torch.ones((), dtype=torch.bool, device=scores.device) if allowed is None else allowed
    if bias is not None:
        visible = visible & (bias != float("-inf"))
    blind = ~visible.any(-1, keepdim=True)
    # such rows are replaced before the softmax too, or their gradient would be NaN
    return torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)


OPERATORS: dict[str, Operator] = {"Attention": attention}
