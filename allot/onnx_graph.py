"""The one route to ONNX: a deployed network as a file that any runtime opens."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from allot.errors import MissingError, ModelError
from allot.onnx_lengths import Lengths, asked, possible, ranges
from allot.onnx_live import UNSCALED, resolve
from allot.quiet import quiet
from allot.task import Free, Inputs, free_axes

OPSET = 18
# elements of a constant that may take the place of what computes it
_SMALL = 16


def to_onnx(
    deployed: nn.Module,
    example: Inputs,
    *,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = ("output",),
    free: Free | None = None,
) -> bytes:
    """The network as ONNX bytes with a free batch size; tensors keep their names of state_dict.

    example: a batch of at least two samples (one would be frozen into the file).  input_names:
    "input" for a tensor and the keys of a dict where none are given.  free: further axes whose
    length is left open, by "input" or the keys of a dict; None for what `free_axes` says.  Where
    the network fixes one of them all are fixed, and the file says why (`onnx_lengths`).
    Raises ModelError where torch cannot export the network, MissingError without onnxscript.
    """
    model = deployed.eval()
    names = input_names or (("input",) if isinstance(example, Tensor) else tuple(example))
    wanted, why = possible(example, free_axes(example) if free is None else free)
    with quiet("torch.onnx", level=logging.ERROR):
        try:
            program = _export(model, example, wanted, names, output_names)
        except ModelError as e:
            if not wanted:
                raise
            program = _export(model, example, {}, names, output_names)
            why = _reason(e.__cause__ or e)
        said = Lengths(fixed=why, ranges=ranges(program))
        return _tidied(program.model, set(model.state_dict()), said)


def _export(
    model: nn.Module,
    example: Inputs,
    free: Free,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> Any:
    # its operators must be known before the exporter lists what it can translate
    import torch.ao.quantization.fx._decomposed
    import torch.onnx

    single = isinstance(example, Tensor)
    try:
        program = torch.onnx.export(
            model,
            (example,) if single else (),
            kwargs={} if single else dict(example),
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            optimize=False,  # its optimizer merges equal tensors, and with them their names
            external_data=False,
            dynamic_shapes=asked(example, free),
            input_names=list(input_names),
            output_names=list(output_names),
        )
    except ModuleNotFoundError as e:
        raise MissingError(f"{e.name} is needed for export: pip install 'allot[cpu]'") from e
    except torch.onnx.OnnxExporterError as e:
        raise ModelError(f"torch cannot export this network to ONNX: {_reason(e)}") from e
    if program is None:
        raise ModelError("torch exported no ONNX program for this network")
    return program


def _reason(e: BaseException) -> str:
    """What torch found wrong in a line: with a free length, what fixes it."""
    lines = str(e.__cause__ or e).strip().splitlines()
    inferred = (x.partition("but ")[2] for x in lines if "but tracing inferred" in x)
    return next(inferred, lines[0])


def _tidied(model: Any, state: set[str], said: Lengths) -> bytes:
    """Constants folded, equal steps merged, tensors of `state` left alone; as bytes."""
    import onnx
    import onnx_ir
    import onnx_ir.passes.common as passes
    import onnxscript.optimizer

    def foldable(node: Any) -> bool | None:
        return False if any(x is not None and x.name in state for x in node.inputs) else None

    _drop_empty_casts(model)
    resolve(model)
    steps = (
        passes.InlinePass(),
        passes.RemoveUnusedNodesPass(),
        # before constants are lifted: equal tensors of modules must keep their own names
        passes.CommonSubexpressionEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.IdentityEliminationPass(),
        passes.ClearMetadataAndDocStringPass(),
        passes.RemoveUnusedNodesPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )
    # larger tables (of rotary places, say) are computed on load: nobody counts them as weights
    onnxscript.optimizer.fold_constants(model, should_fold=foldable, output_size_limit=_SMALL)
    onnx_ir.passes.Sequential(*steps)(model)
    model.producer_name, model.producer_version = "allot", ""
    model.metadata_props.update(said.dump())
    return onnx.ModelProto.SerializeToString(onnx_ir.to_proto(model), deterministic=True)


def _drop_empty_casts(model: Any) -> None:
    """Takes out casts to the type that the input already has, in place."""
    for node in list(model.graph):
        if node.op_type != "Cast" or node.inputs[0].dtype is None:
            continue
        if int(node.attributes["to"].as_int()) == int(node.inputs[0].dtype):
            node.outputs[0].replace_all_uses_with(node.inputs[0])
            model.graph.remove(node, safe=True)


def load_proto(data: bytes) -> Any:
    """The parsed ONNX model (onnx.ModelProto); raises MissingError without onnx."""
    try:
        import onnx
    except ModuleNotFoundError as e:
        raise MissingError("onnx is not installed: pip install 'allot[cpu]'") from e
    return onnx.load(io.BytesIO(data), load_external_data=False)


def tap(onnx: bytes, layers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """The file with the output of every layer as a further output, and layer -> that output's name.

    layers: layer -> the tensor of its that enters last (its bias, or its weight or codes where it
    has none).  Layers whose tensor the graph lacks are left out.
    """
    from onnx import helper

    proto = load_proto(onnx)
    found = {}
    for layer, tensor in layers.items():
        name = tensor
        for node in proto.graph.node:
            if name in node.input:
                name = node.output[0]
                between = node.op_type in ("DequantizeLinear", "Transpose")
                if not between and not name.endswith(UNSCALED):
                    found[layer] = name
                    break
    known = {x.name for x in proto.graph.output}
    new = [n for n in dict.fromkeys(found.values()) if n not in known]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in new)
    return bytes(proto.SerializeToString(deterministic=True)), found
