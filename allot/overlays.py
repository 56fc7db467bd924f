"""Overlays: what recovery made of a plan's modules, on disk, so that it is never made twice.

An encoding of the bank depends on its own weights alone.  What rounding in order or learning makes
of a module depends on the plan's options there and before it: so it is kept apart, one file for a
piece of the network (see `allot.pieces`), named by a key of what it was made from and by the hash
of what it holds, and never changed.  Plans that begin alike share the files of their beginning.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from allot.bank import Bank
from allot.errors import PlanError
from allot.files import write_bytes
from allot.ledger import sample_digests
from allot.module_tree import Untold, built, told
from allot.option import Option
from allot.pieces import Piece, pieces
from allot.plan import weights_digest
from allot.recover import Recovery
from allot.task import Data

FOLDER, VERSION = "overlays", 2
_ENDING = ".safetensors"

Standins = Mapping[str, nn.Module]
Plan = tuple[Mapping[str, Option], Recovery]


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
        self._untold = False

    def get(
        self,
        options: Mapping[str, Option],
        recovery: Recovery,
        make: Callable[[Standins], Standins],
    ) -> dict[str, nn.Module]:
        """Stand-ins of a plan after a recovery, read where they were made before.

        make: (those of the plan's beginning that are known) -> all.  What is read is the same to
        the bit.  A damaged file is told of, and its content made again.
        """
        known: dict[str, nn.Module] = {}
        keyed = list(self._keyed(options, recovery))
        for i, (key, _) in enumerate(keyed):
            path = self._path(key)
            found = None if path is None else self._read(path)
            if found is None:
                made = dict(make(known))
                self._write(made, keyed[i:])
                return made
            known |= found
        return known

    def digest(self, options: Mapping[str, Option], recovery: Recovery) -> str:
        """A hash that names what the files of this plan hold, "" where one is lacking."""
        paths = [self._path(key) for key, _ in self._keyed(options, recovery)]
        hashes = [_hash_in(p) for p in paths if p is not None]
        if len(hashes) < len(paths):
            return ""
        return hashes[0] if len(hashes) == 1 else _digest("".join(hashes).encode())

    def keys(self, options: Mapping[str, Option], recovery: Recovery) -> tuple[str, ...]:
        """Name what every file of a plan is made from, in execution order.

        Network, data, the recovery, and all options in a piece and before it.
        """
        return tuple(key for key, _ in self._keyed(options, recovery))

    def keep(self, plans: Iterable[Plan]) -> None:
        """Takes away the files of all other plans: a job that goes on does not need them."""
        keys = {key for options, recovery in plans for key in self.keys(options, recovery)}
        for path in self.folder.glob(f"*{_ENDING}"):
            if path.name.partition(".")[0] not in keys:
                path.unlink()

    def copy(self, options: Mapping[str, Option], recovery: Recovery, folder: Path) -> None:
        """The files of a plan, where there are any, written into another folder too."""
        for key, _ in self._keyed(options, recovery):
            path = self._path(key)
            if path is not None:
                write_bytes(folder / path.name, path.read_bytes())

    def _keyed(
        self, options: Mapping[str, Option], recovery: Recovery
    ) -> Iterator[tuple[str, Piece]]:
        for piece in pieces(self._bank.graph, recovery):
            given = {n: o.dump() for n, o in sorted(piece.options(options).items())}
            about = [VERSION, self._given, given, recovery.dump(), piece.end]
            text = json.dumps(about, sort_keys=True)
            yield hashlib.sha256(text.encode()).hexdigest()[:16], piece

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

    def _write(self, made: Standins, keyed: Iterable[tuple[str, Piece]]) -> None:
        if self.frozen:
            return
        try:
            for key, piece in keyed:
                held = {n: m for n, m in made.items() if piece.holds(n)}
                data = _dumped(held, self._originals)
                write_bytes(self.folder / f"{key}.{_digest(data)}{_ENDING}", data)
        except Untold:
            if not self._untold:
                self._tell(
                    "what recovery made of a plan holds modules that a file cannot say, and is "
                    "made again whenever it is needed"
                )
            self._untold = True


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
