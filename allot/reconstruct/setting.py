"""Setting: how a planned network is reconstructed."""

from __future__ import annotations

from dataclasses import dataclass

from allot.errors import InputError
from allot.part import Part
from allot.reconstruct.losses import Loss, OutputMSE
from allot.reconstruct.soft import LearnedRounding, SoftRounding
from allot.reconstruct.units import Blocks, Units


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Part):
    """How units are learned.

    drop: probability with which an element of a quantized tensor in the unit stays float at a step
    (QDrop, Wei et al. 2022); 0 has all quantizers on, 1 reconstructs weights alone.  float_inputs:
    share of the elements that enter the unit which are those of the original network; 0 takes all
    from the planned one.  Only while learning: what is kept is judged with all quantizers on and
    inputs of the planned network.  steps: of each unit.  batch, samples: calibration inputs of a
    step and in all.  learn_steps: static steps of tensors in the unit are learned too, at
    step_rate per step in relative terms; learn_biases: biases of layers and norms, at bias_rate
    of what the unit's output deviates.
    """

    unit: Units = Blocks()  # noqa: RUF009 - frozen, shared by intent
    loss: Loss = OutputMSE()  # noqa: RUF009
    rounding: LearnedRounding = SoftRounding()  # noqa: RUF009
    drop: float = 0.5
    float_inputs: float = 0.5
    steps: int = 300
    batch: int = 32
    samples: int = 512
    learn_steps: bool = True
    step_rate: float = 0.001
    learn_biases: bool = False
    bias_rate: float = 0.001

    def __post_init__(self) -> None:
        for name in ("drop", "float_inputs"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share from 0 to 1; {getattr(self, name)} was given")
        for name in ("steps", "batch", "samples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1; {getattr(self, name)} was given")
