"""Laws of what enters a unit while it is learned: the same values, laid out in the usual order.

Fault these laws must catch: channels last, which crash torch's gradient of a group norm.
"""

from __future__ import annotations

from types import SimpleNamespace

import torch

from allot.reconstruct.learn import _entering
from allot.reconstruct.streams import Call


def test_tensors_with_channels_last_are_laid_out_anew_and_keep_their_values() -> None:
    x = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    call = Call(args=(x, 7), named={"told": [x, None]}, output=torch.empty(0))
    setting = SimpleNamespace(float_inputs=0.0)
    work = SimpleNamespace(calls=[call], floats=(), source=SimpleNamespace(setting=setting))
    found = _entering(work, 0, None)  # type: ignore[arg-type]
    for y in (found.args[0], found.named["told"][0]):
        assert y.is_contiguous() and torch.equal(x, y)
    assert found.args[1] == 7 and found.named["told"][1] is None and not x.is_contiguous()
