"""Scene: what a signal may look at to say how much harm every option does."""

from __future__ import annotations

from dataclasses import dataclass

from allot.bank import Bank
from allot.evaluate import Evaluator
from allot.space import Space
from allot.task import Data, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """space: the options.  task: the network, how to run it and its losses.  bank: every option
    encoded.  data: the search data, of which a signal may take fewer samples and say so.
    evaluator: measures whole plans, and counts the work of signals that do something else.
    seed: of all that is drawn.
    """

    space: Space
    task: Task
    bank: Bank
    data: Data
    evaluator: Evaluator
    seed: int = 0
