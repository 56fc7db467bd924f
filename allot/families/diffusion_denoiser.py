"""Denoisers: networks of diffusers under one signature, (x, time, conditions) to [n, c, h, w].

Which convention a network follows is read from the parameters of its `forward`, not from its class.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import InputError

# conditions that networks take as a dict
_ADDED = "added_cond_kwargs"
# rows, columns and a third number that images leave at 0
_PLACE = 3
_PATCH = 2
# networks that are told flow time are told it in 0 .. 1 and multiply it with this themselves
_FLOW_TIMES = 1000.0


def takes(model: nn.Module) -> frozenset[str]:
    """Names of what a network's forward is given."""
    return frozenset(inspect.signature(model.forward).parameters)


def denoiser_of(model: nn.Module, *, guidance: float = 1.0) -> nn.Module:
    """The network as a denoiser; raises InputError where its forward follows no known convention.

    guidance: told to networks that have it among their inputs (distilled ones); others ignore it.
    """
    names = takes(model)
    if "timestep" not in names or not names & {"sample", "hidden_states"}:
        raise InputError(
            f"{type(model).__name__} takes {', '.join(sorted(names))}; a denoiser takes `sample` "
            "or `hidden_states`, and `timestep`"
        )
    if {"img_ids", "txt_ids"} <= names:
        return Packed(model, guidance=guidance)
    return Texted(model) if "encoder_hidden_states" in names else Labelled(model)


class Labelled(nn.Module):
    """A network that is told a class or nothing (UNet2DModel, DiTTransformer2DModel).

    x [n, c, h, w], time [n], class_labels [n] or none -> [n, c, h, w].
    """

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.model, self._takes = model, takes(model)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor | None = None) -> Tensor:
        told = {"class_labels": class_labels}
        return _without_variance(_called(self.model, self._takes, x, time, told), x)


class Texted(nn.Module):
    """A network that attends to a text (UNet2DConditionModel, PixArt, SD3).

    x [n, c, h, w], time [n], encoder_hidden_states [n, tokens, d] and whatever else it was trained
    with -> [n, c, h, w].
    """

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        self.model, self._takes = model, takes(model)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None = None,
        pooled_projections: Tensor | None = None,
        class_labels: Tensor | None = None,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
    ) -> Tensor:
        added = {
            "text_embeds": text_embeds,
            "time_ids": time_ids,
            "resolution": resolution,
            "aspect_ratio": aspect_ratio,
        }
        given = {k: v for k, v in added.items() if v is not None}
        told: dict[str, Any] = {
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
            "pooled_projections": pooled_projections,
            "class_labels": class_labels,
            _ADDED: given or None,
        }
        return _without_variance(_called(self.model, self._takes, x, time, told), x)


class Packed(nn.Module):
    """A network that takes 2x2 patches as tokens beside those of a text (Flux).

    x [n, c, h, w] with even h and w, time [n] in 0 .. 1000, encoder_hidden_states [n, tokens, d],
    pooled_projections [n, e] -> [n, c, h, w].
    """

    def __init__(self, model: nn.Module, *, guidance: float) -> None:
        nn.Module.__init__(self)
        self.model, self._takes, self.guidance = model, takes(model), guidance
        config = _config(model)
        self._guided = bool(config.get("guidance_embeds"))
        places = len(config.get("axes_dims_rope", ()))
        if places != _PLACE:
            raise InputError(
                f"{type(model).__name__} numbers places of tokens by {places} axes; {_PLACE} are "
                "supported, as in Flux"
            )

    def forward(
        self, x: Tensor, time: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor
    ) -> Tensor:
        n, c, h, w = x.shape
        rows, columns = h // _PATCH, w // _PATCH
        tokens = x.view(n, c, rows, _PATCH, columns, _PATCH).permute(0, 2, 4, 1, 3, 5)
        told = {
            "encoder_hidden_states": encoder_hidden_states,
            "pooled_projections": pooled_projections,
            "guidance": torch.full_like(time, self.guidance) if self._guided else None,
            "img_ids": _places(rows, columns, x),
            "txt_ids": x.new_zeros(encoder_hidden_states.shape[1], _PLACE),
        }
        packed = tokens.reshape(n, rows * columns, c * _PATCH * _PATCH)
        out = _called(self.model, self._takes, packed, time / _FLOW_TIMES, told)
        patches = out.view(n, rows, columns, c, _PATCH, _PATCH).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(n, c, h, w)


def _called(
    model: nn.Module, names: frozenset[str], x: Tensor, time: Tensor, told: Mapping[str, Any]
) -> Tensor:
    """The network's output; raises InputError for a condition that it is not told of."""
    given = {k: v for k, v in told.items() if v is not None}
    foreign = sorted(set(given) - names)
    if foreign:
        raise InputError(f"{type(model).__name__} takes no {', '.join(foreign)}")
    first = "sample" if "sample" in names else "hidden_states"
    out: Tensor = model(**{first: x}, timestep=time, **given, return_dict=False)[0]
    return out


def _without_variance(output: Tensor, x: Tensor) -> Tensor:
    """Learned variances (Nichol and Dhariwal 2021) stand behind the prediction; ours need none."""
    return output[:, : x.shape[1]] if output.shape[1] == 2 * x.shape[1] else output


def _places(rows: int, columns: int, like: Tensor) -> Tensor:
    """Row and column of every token: [rows * columns, 3]."""
    found = like.new_zeros(rows, columns, _PLACE)
    found[..., 1] = torch.arange(rows, device=like.device)[:, None]
    found[..., 2] = torch.arange(columns, device=like.device)[None, :]
    return found.view(rows * columns, _PLACE)


def _config(model: nn.Module) -> Mapping[str, Any]:
    """What a network of diffusers says of its own sizes."""
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        raise InputError(f"{type(model).__name__} has no `config`; networks of diffusers have one")
    return config


def null_class(model: nn.Module) -> int | None:
    """The class that stands for none: what a table of classes has beyond the network's number."""
    for m in model.modules():
        table, classes = getattr(m, "embedding_table", None), getattr(m, "num_classes", None)
        if isinstance(table, nn.Embedding) and isinstance(classes, int):
            return classes if table.num_embeddings > classes else None
    return None


def example_of(
    denoiser: nn.Module, *, n: int = 2, tokens: int = 4, size: int = 8, seed: int = 0
) -> dict[str, Tensor]:
    """Random inputs of a denoiser, from its sizes: x, time and every condition it needs.

    tokens: of a text.  size: of images where the network does not say it.
    """
    generator = torch.Generator().manual_seed(seed)
    model = denoiser.get_submodule("model")
    config = _config(model)

    def normal(*shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    said = config.get("sample_size") or size
    height, width = said if isinstance(said, tuple | list) else (said, said)
    packed = isinstance(denoiser, Packed)
    channels = config["in_channels"] // (_PATCH * _PATCH if packed else 1)
    found = {"x": normal(channels, height, width)}
    found["time"] = torch.randint(1, 1000, (n,), generator=generator).float()
    if isinstance(denoiser, Labelled):
        classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
        if classes:
            found["class_labels"] = torch.randint(classes, (n,), generator=generator)
        return found
    found["encoder_hidden_states"] = normal(tokens, _text_width(config))
    if "pooled_projections" in takes(model):
        found["pooled_projections"] = normal(config["pooled_projection_dim"])
    return found | _added(model, config, normal)


def _text_width(config: Mapping[str, Any]) -> int:
    names = ("caption_channels", "joint_attention_dim", "encoder_hid_dim", "cross_attention_dim")
    width = next(config[k] for k in names if config.get(k))
    return int(width[0] if isinstance(width, tuple | list) else width)


def _added(model: nn.Module, config: Mapping[str, Any], normal: Any) -> dict[str, Tensor]:
    """Sizes of the picture and pooled texts, of networks that are told them as a dict."""
    if config.get("addition_embed_type") == "text_time":
        rest = config["projection_class_embeddings_input_dim"]
        rest -= 6 * config["addition_time_embed_dim"]
        return {"text_embeds": normal(rest), "time_ids": normal(6)}
    if getattr(model, "use_additional_conditions", False):
        return {"resolution": normal(2), "aspect_ratio": normal(1)}
    return {}
