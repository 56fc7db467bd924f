"""Setting: how a planned network is reconstructed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from allot.errors import InputError
from allot.reconstruct.learning import Learning, Planned
from allot.reconstruct.losses import Loss, OutputMSE
from allot.reconstruct.soft import FreeRounding, LearnedRounding
from allot.reconstruct.units import Blocks, Unit, Units
from allot.site import Graph


@dataclass(frozen=True, kw_only=True)
class Reconstruction(Learning):
    """How units are learned.

    drop: probability with which an element of a quantized tensor in the unit stays float at a step
    (QDrop, Wei et al. 2022); 0 has all quantizers on, 1 reconstructs weights alone.  float_inputs:
    share of the elements that enter the unit which are those of the original network; 0 takes all
    from the planned one.  Only while learning: what is kept is judged with all quantizers on and
    inputs of the planned network.  steps: of each unit.  batch, samples: calibration inputs of a
    step and in all.  learn_steps: static steps of tensors in the unit are learned too, at
    step_rate per step in relative terms; learn_biases: biases of layers and norms, at bias_rate.

    Defaults are for a few hundred steps: on ResNet-20 at W2A4 (200 steps a block, 512 images, one
    seed, 1 000 others) the divergence was 0.164 without and 0.177 with half of the elements dropped
    and mixed, from 0.253; the published methods take 20 000 steps.
    """

    unit: Units = Blocks()  # noqa: RUF009 - frozen, shared by intent
    loss: Loss = OutputMSE()  # noqa: RUF009
    rounding: LearnedRounding = FreeRounding()  # noqa: RUF009
    drop: float = 0.0
    float_inputs: float = 0.0
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

    def units(self, graph: Graph) -> tuple[Unit, ...]:
        """Its units, unless each looks at what the network puts out."""
        return () if self.loss.whole else self.unit.of(graph)

    def learned(self, planned: Planned) -> dict[str, nn.Module]:
        """Unit by unit, in execution order."""
        # imported here, since what it imports reads this class
        from allot.reconstruct.reconstruct import reconstructed

        p = planned
        return reconstructed(
            p.bank, p.task, p.options, standins=p.standins, setting=self, original=p.original,
            seed=p.seed, known=p.known,
            progress=p.progress,
        )  # fmt: skip
