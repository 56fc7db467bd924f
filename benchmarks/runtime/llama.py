"""A language model of 91 M parameters as people run it: a prompt at once, then token by token.

A Llama from its configuration, random weights. The caller keeps the keys and values of past tokens:
a step is given them and returns those of its token, so that no file copies a cache.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from allot.num.clipping import MinMax, PNorm
from allot.num.rounding import Nearest
from allot.option import Option
from allot.recipes.bits import parsed
from allot.recipes.offered import integers, tensors
from allot.scheme import Scheme
from allot.site import Graph
from allot.sweep import find, rewrapped, unwrapped
from benchmarks.runtime import libraries

HEADS, WIDTH, LAYERS, INNER, VOCABULARY = 12, 768, 12, 2048, 4096


def build(*, layers: int = LAYERS, seed: int) -> nn.Module:
    """The untrained network; the global random state is left as it was."""
    t = libraries.transformers()
    config = t.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=512,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their weights from it
        model: nn.Module = t.LlamaForCausalLM(config)
    return model.eval().requires_grad_(False)


def planned(model: nn.Module, graph: Graph, bits: str) -> nn.Module:
    """A copy with every linear, the head among them, and what it reads as asked: "W4A8g128".

    Weights go to the nearest code, for speed does not depend on which; embeddings stay in float.
    """
    asked = parsed(bits)
    # the search of ranges takes long, and whole channels without it are no option of kernels
    weight = integers(asked, ranges=MinMax() if asked.group else PNorm(), rounding=Nearest())
    scheme = Scheme(weight=weight, activation=tensors(asked))
    options = sorted(scheme.options(graph).items(), key=lambda x: x[1].level)
    made = copy.deepcopy(model)
    for name, option in options:
        _put_(made, graph, name, option)
    return made


def _put_(model: nn.Module, graph: Graph, name: str, option: Option) -> None:
    """The option at one site, in place; it reads no statistics."""
    site = graph.site(name)
    (touch,) = site.touches
    parent, _, child = touch.module.rpartition(".")
    holder = unwrapped(find(model, parent))
    old = holder._modules[child]
    assert old is not None
    inner = old if option.level > 1 else unwrapped(old)
    new = option.apply(inner, touch=touch, site=site, graph=graph, stats={})
    holder._modules[child] = new if option.level > 1 else rewrapped(old, new)


class Prompt(nn.Module):
    """tokens [1, t] -> logits [1, t, vocabulary]."""

    def __init__(self, model: Any) -> None:
        nn.Module.__init__(self)
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        inner, t = self.model.model, tokens.shape[1]
        mask = torch.full((t, t), -torch.inf).triu(1)
        turn = turns(self.model, 0, t)
        x = inner.embed_tokens(tokens)
        for layer in inner.layers:
            attend = layer.self_attn
            h = layer.input_layernorm(x)
            q, k, v = (heads(p(h)) for p in (attend.q_proj, attend.k_proj, attend.v_proj))
            q, k = turned(q, turn), turned(k, turn)
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask).softmax(-1)
            x = x + attend.o_proj(joined(weights @ v))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits: Tensor = self.model.lm_head(inner.norm(x))
        return logits


class Step(nn.Module):
    """tokens [1, 1], keys and values [1, layers, heads, past, d] -> logits [1, 1, vocabulary], and
    the keys and values of the token [1, layers, heads, 1, d]."""

    def __init__(self, model: Any) -> None:
        nn.Module.__init__(self)
        self.model = model

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        inner, past = self.model.model, keys.shape[3]
        turn = turns(self.model, past, past + 1)
        x, new_keys, new_values = inner.embed_tokens(tokens), [], []
        for i, layer in enumerate(inner.layers):
            attend = layer.self_attn
            h = layer.input_layernorm(x)
            q, k, v = (heads(p(h)) for p in (attend.q_proj, attend.k_proj, attend.v_proj))
            q, k = turned(q, turn) * q.shape[-1] ** -0.5, turned(k, turn)
            before, now = q @ keys[:, i].transpose(-1, -2), (q * k).sum(-1, keepdim=True)
            weights = torch.cat([before, now], -1).softmax(-1)
            seen = weights[..., :past] @ values[:, i] + weights[..., past:] * v
            x = x + attend.o_proj(joined(seen))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            new_keys.append(k)
            new_values.append(v)
        logits = self.model.lm_head(inner.norm(x))
        return logits, torch.stack(new_keys, 1), torch.stack(new_values, 1)


def heads(x: Tensor) -> Tensor:
    """[n, t, width] -> [n, heads, t, d]."""
    return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[n, heads, t, d] -> [n, t, width]."""
    return x.transpose(1, 2).flatten(2)


def turns(model: Any, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of places first .. last - 1: [t, d] each."""
    places = torch.arange(first, last)[:, None]
    angles = places * model.model.rotary_emb.inv_freq[None]
    angles = torch.cat([angles, angles], -1)
    return angles.cos(), angles.sin()


def turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary places (Su et al. 2021) given to x [n, heads, t, d]."""
    a, b = x.chunk(2, -1)
    return x * turn[0] + torch.cat([-b, a], -1) * turn[1]
