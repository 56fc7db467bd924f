"""Overlays: what recovery made of a plan's modules, on disk, so that it is never made twice.

An encoding of the bank depends on its own weights alone.  What rounding in order or learning makes
depends on all options of the plan: so it is kept apart, one file for a plan and a recovery, named
by a key of what it was made from and by the hash of what it holds, and never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from allot.bank import Bank
from allot.errors import PlanError
from allot.files import write_bytes
from allot.ledger import sample_digests
from allot.module_tree import Untold, built, told
from allot.option import Option
from allot.plan import weights_digest
from allot.recover import Recovery
from allot.task import Data

FOLDER, VERSION = "overlays", 1
_ENDING = ".safetensors"

Standins = Mapping[str, nn.Module]


class Overlays:
    """The overlays of one bank and its calibration data in a folder.

    frozen: nothing is written there.  tell: what is said of a file that cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        bank: Bank,
        data: Data,
        *,
        frozen: bool = False,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.frozen = folder, frozen
        self._bank, self._tell = bank, tell
        self._originals = dict(bank.skeleton.named_modules())
        given = [bank.graph.digest, weights_digest(bank.skeleton), *sample_digests(data.inputs)]
        self._given = hashlib.sha256(json.dumps(given).encode()).hexdigest()
        self._untold: set[str] = set()

    def get(
        self, options: Mapping[str, Option], recovery: Recovery, make: Callable[[], Standins]
    ) -> dict[str, nn.Module]:
        """Stand-ins of a plan after a recovery, read where they were made before.

        They are the same to the bit.  A damaged file is told of, and its content made again.
        """
        name = self.key(options, recovery)
        path = self._path(name)
        if path is not None:
            found = self._read(path)
            if found is not None:
                return found
        made = dict(make())
        if not self.frozen:
            self._write(name, made)
        return made

    def digest(self, options: Mapping[str, Option], recovery: Recovery) -> str:
        """The hash that names what a file of this plan holds, "" where there is none."""
        path = self._path(self.key(options, recovery))
        return "" if path is None else _hash_in(path)

    def key(self, options: Mapping[str, Option], recovery: Recovery) -> str:
        """Names what an overlay is made from: network, data, all options and the recovery."""
        plan = {name: o.dump() for name, o in sorted(options.items())}
        text = json.dumps([VERSION, self._given, plan, recovery.dump()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def keep(self, keys: Collection[str]) -> None:
        """Takes away the files of all other plans: a job that goes on does not need them."""
        for path in self.folder.glob(f"*{_ENDING}"):
            if path.name.partition(".")[0] not in keys:
                path.unlink()

    def copy(self, options: Mapping[str, Option], recovery: Recovery, folder: Path) -> None:
        """The file of a plan, where there is one, written into another folder too."""
        path = self._path(self.key(options, recovery))
        if path is not None:
            write_bytes(folder / path.name, path.read_bytes())

    def _path(self, name: str) -> Path | None:
        # of several, only a damaged one and the one made in its place can be
        found = sorted(self.folder.glob(f"{name}.*{_ENDING}"))
        return next((p for p in found if _is_whole(p)), found[0] if found else None)

    def _read(self, path: Path) -> dict[str, nn.Module] | None:
        if not _is_whole(path):
            self._tell(
                f"{path} was changed after it was written: its hash differs; what it held is made "
                "again"
            )
            if not self.frozen:
                path.unlink()
            return None
        trees, tensors = _loaded(path.read_bytes())
        return {
            name: built(tree, tensors=tensors, originals=self._originals, encodings=())
            for name, tree in trees.items()
        }

    def _write(self, name: str, made: Standins) -> None:
        try:
            data = _dumped(made, self._originals)
        except Untold:
            if name not in self._untold:
                self._untold.add(name)
                self._tell(
                    "what recovery made of a plan holds modules that a file cannot say, and is "
                    "made again whenever it is needed"
                )
            return
        write_bytes(self.folder / f"{name}.{_digest(data)}{_ENDING}", data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _hash_in(path: Path) -> str:
    return path.name.removesuffix(_ENDING).partition(".")[2]


def _is_whole(path: Path) -> bool:
    return _digest(path.read_bytes()) == _hash_in(path)


def _dumped(made: Standins, originals: Standins) -> bytes:
    """Stand-ins as a safetensors file, their trees in its header; raises Untold."""
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    known: dict[int, str] = {}

    def name(x: Tensor) -> str:
        if id(x) not in known:
            known[id(x)] = str(len(tensors))
            tensors[known[id(x)]] = x.detach().cpu().contiguous().clone()
        return known[id(x)]

    whole = {id(m): {"original": n} for n, m in originals.items()}
    trees = {n: told(m, name=name, known=whole) for n, m in sorted(made.items())}
    return save(tensors, metadata={"overlay": json.dumps([VERSION, trees])})


def _loaded(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Trees and tensors of a file whose hash is right; raises PlanError for another version."""
    from safetensors.torch import load

    length = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + length]).get("__metadata__", {}).get("overlay", "[0, {}]")
    version, trees = json.loads(text)
    if version != VERSION:
        raise PlanError(f"an overlay has version {version}; this allot reads {VERSION}")
    # copies: a tensor inside the file's bytes lies as no other does, and kernels look at that
    return trees, {k: x.clone() for k, x in load(data).items()}
