"""Laws of the artefact: bytes are as billed, nothing is lost, and damage is never overlooked."""

from __future__ import annotations

import errno
import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from allot import bill
from allot.artefact import (
    add_documents,
    check,
    check_inputs,
    describe,
    open_artefact,
    read_weights,
    write_artefact,
)
from allot.deploy import deploy, named_layers
from allot.errors import ArtefactError, DataError, JobError
from allot.files import load_weights, write_bytes, write_files, write_json
from allot.onnx_graph import load_proto, to_onnx
from allot.option import Option
from allot.options.precision import Activation, Weight
from allot.packed import Packed, header_bytes, pack, stored_bytes, unpack
from allot.plan import Plan
from allot.runtimes import Ideal
from allot.space import Choice, Space
from tests.deployables import exported, graph, images, net


def made(folder: Path) -> Path:
    onnx, deployed = exported()
    plan = Plan(graph="g", weights="w", options={"conv.weight": Weight(bits=4)})
    summary = {
        **describe(onnx),
        "target_part": Ideal().dump(),
        "workload": {"batch": 4, "threads": 1},
    }
    documents = {"plan.json": plan.dump(), "summary.json": summary, "report.html": "<p>é</p>"}
    write_artefact(folder, onnx=onnx, deployed=deployed, graph=graph(), documents=documents)
    return folder


def initializers(onnx: bytes) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    return {t.name: numpy_helper.to_array(t) for t in load_proto(onnx).graph.initializer}


@pytest.mark.parametrize("bits", [(8, 4), (3, 2), (5, 7)])
def test_what_was_packed_comes_back_in_every_bit(bits: tuple[int, int]) -> None:
    onnx, deployed = exported(bits=bits)
    expected, got = initializers(onnx), initializers(unpack(pack(onnx, deployed, graph())))
    assert set(expected) == set(got)
    for name, x in expected.items():
        np.testing.assert_array_equal(x, got[name], err_msg=name)


def test_expanded_weights_come_back_in_every_bit() -> None:
    from tests.deployables import planned

    model = planned(bits=(3, 4))
    model._modules["conv"] = model.conv.inner  # type: ignore[assignment]
    deployed = deploy(model, graph())
    onnx = to_onnx(deployed, images(2))
    packed = pack(onnx, deployed, graph())
    assert header_bytes(graph()) < len(packed.weights) < header_bytes(graph()) + 8 * 3 * 27 + 8 * 72
    np.testing.assert_array_equal(
        initializers(onnx)["conv.weight"], initializers(unpack(packed))["conv.weight"]
    )


def _space() -> Space:
    g, choices = graph(), []
    for site in g.sites:
        options: tuple[Option, ...] = (Activation(bits=32), Activation(bits=8))
        if site.kind == "weight":
            options = tuple(Weight(bits=b) for b in (32, *range(2, 9)))
        choices.append(Choice(site=site.name, options=options))
    return Space(graph=g, choices=tuple(choices))


@pytest.mark.parametrize("bits", [(32, 32), (8, 4), (3, 2), (5, 7)])
def test_bytes_on_disk_are_the_bill_to_the_byte(bits: tuple[int, int], tmp_path: Path) -> None:
    onnx, deployed = exported(bits=bits) if bits[0] < 32 else _float()
    folder = tmp_path / "a"
    size = write_artefact(
        folder, onnx=onnx, deployed=deployed, graph=graph(),
        documents={"plan.json": {}, "summary.json": {}},
    )  # fmt: skip
    table = bill.size(_space(), header=header_bytes(graph()))
    place = {b: i for i, b in enumerate((32, *range(2, 9)))}
    point = (0, place[bits[0]], 0, place[bits[1]], 0, 0)
    assert table.of(point) == size == (folder / "weights.safetensors").stat().st_size


def _float() -> tuple[bytes, torch.nn.Module]:
    deployed = deploy(net(), graph())
    return to_onnx(deployed, images(2)), deployed


def test_stored_bytes_by_hand() -> None:
    # 8 rows of 27 codes of 3 bits are 648 bits; 8 scales and 8 biases of 4 bytes
    assert 81 + 32 + 32 == stored_bytes((8, 3, 3, 3), 3, bias=True)
    assert 4 * 40 == stored_bytes((5, 8), 32, bias=False)


def test_the_weights_file_is_plain_safetensors_named_after_modules(tmp_path: Path) -> None:
    found = load_file(made(tmp_path / "a") / "weights.safetensors")
    assert {"stem.0", "conv", "head", "*"} == set(found)
    assert all(x.dtype == torch.uint8 for x in found.values())


def test_the_graph_file_holds_no_weights(tmp_path: Path) -> None:
    onnx, deployed = exported()
    kept = load_proto(pack(onnx, deployed, graph()).graph).graph.initializer
    owned = sum(
        x.codes.numel() if hasattr(x, "codes") else 0 for x in named_layers(deployed).values()
    )
    assert owned > 700
    assert sum(len(t.raw_data) for t in kept) < 200


def test_an_artefact_opens_and_runs_as_the_network(tmp_path: Path) -> None:
    artefact = open_artefact(made(tmp_path / "a"))
    x = images(5)
    got = artefact.run({"input": x.numpy()})["output"]
    np.testing.assert_allclose(exported()[1](x).numpy(), got, rtol=1e-3, atol=1e-2)
    assert Weight(bits=4) == artefact.plan.options["conv.weight"]
    assert "<p>é</p>" == (tmp_path / "a" / "report.html").read_text()


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a"), made(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in a.iterdir()} == {
        p.name: p.read_bytes() for p in b.iterdir()
    }


def test_documents_can_be_added_and_are_sealed_too(tmp_path: Path) -> None:
    folder = made(tmp_path / "a")
    add_documents(folder, {"certificate.json": {"bound": 0.1}})
    assert "certificate.json" in check(folder)
    (folder / "certificate.json").write_text('{"bound": 0.0}')
    with pytest.raises(ArtefactError, match=r"certificate\.json"):
        open_artefact(folder)


def _flip(name: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return damage


def _cut(folder: Path) -> None:
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[:-10])


def _lead_out(folder: Path) -> None:
    path = folder / "weights.safetensors"
    os.replace(path, folder.parent / "elsewhere")
    path.symlink_to(folder.parent / "elsewhere")


def _version(folder: Path) -> None:
    manifest = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps({**manifest, "version": 99}))


def _rename(folder: Path) -> None:
    text = (folder / "artefact.json").read_text()
    (folder / "artefact.json").write_text(text.replace('"report.html"', '"../secret"'))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip("weights.safetensors"), "changed"),
        (_flip("graph.onnx"), "changed"),
        (_flip("plan.json"), "changed"),
        (_cut, "bytes where"),
        (lambda f: (f / "layout.json").unlink(), "lacks layout.json"),
        (lambda f: (f / "artefact.json").unlink(), "no finished artefact"),
        (lambda f: (f / "artefact.json").write_text("{"), "not JSON"),
        (lambda f: (f / "artefact.json").write_text("{}"), "not written by allot"),
        (_version, "version 99"),
        (_lead_out, "leads out"),
        (_rename, "leads out"),
    ],
)
def test_damage_is_refused_in_a_sentence(
    damage: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    folder = made(tmp_path / "a")
    check(folder)
    damage(folder)
    with pytest.raises(ArtefactError, match=says):
        open_artefact(folder)


def test_no_folder_is_no_artefact(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="not a folder"):
        open_artefact(tmp_path / "none")


def test_files_that_do_not_belong_together_are_refused() -> None:
    packs = [pack(*exported(bits=b), graph()) for b in ((8, 4), (3, 2))]
    mixed = Packed(weights=packs[0].weights, graph=packs[1].graph, layout=packs[1].layout)
    with pytest.raises(ArtefactError, match="do not fit"):
        unpack(mixed)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.pkl", "w.safetensors"])
def test_a_pickle_is_refused_unopened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ArtefactError, match=r"save_file\(torch\.load"):
        load_weights(path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(ArtefactError, match="weights_only=True"):
        load_weights(path)
    assert not (tmp_path / "exploded").exists()


def test_weights_of_safetensors_are_read(tmp_path: Path) -> None:
    # lengths of headers that look like the start of a pickle (0x80 0x02) are no pickle
    wide = {"x" * (0x0280 - 60): torch.ones(2)}
    for i, tensors in enumerate(({"a": torch.arange(3.0)}, wide)):
        save_file(tensors, tmp_path / f"{i}.safetensors")
        assert tensors.keys() == load_weights(tmp_path / f"{i}.safetensors").keys()
    with pytest.raises(ArtefactError, match="missing"):
        load_weights(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "0.safetensors").read_bytes()[:-4])
    with pytest.raises(ArtefactError, match="not a whole"):
        load_weights(tmp_path / "cut.safetensors")


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr(os, "replace", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"other")
    assert {"a": 1} == json.loads(path.read_text())
    assert [path] == list(tmp_path.iterdir())


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_artefact_half_written_over_another_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "a")
    replace, done = os.replace, list[object]()

    def killed(source: str, target: object) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)  # type: ignore[type-var]

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        made(folder)
    assert not list(folder.glob(".*"))
    with pytest.raises(ArtefactError, match="no finished artefact"):
        open_artefact(folder)


def _full_after(count: int) -> Callable[[int], None]:
    """os.fsync of a disk that is full once so many files were flushed."""
    done = list[int]()

    def fsync(handle: int) -> None:
        done.append(handle)
        if len(done) > count:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fsync


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_full_disk_is_one_sentence_and_changes_nothing(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "a")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(os, "fsync", _full_after(count))
    with pytest.raises(JobError, match=r"is full: \d+ bytes .* nothing was changed"):
        made(folder)
    with pytest.raises(JobError, match="is full"):
        add_documents(folder, {"more.json": {"a": 1}})
    assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
    open_artefact(folder)
    with pytest.raises(JobError, match="free some space"):
        made(tmp_path / "b")
    assert not list((tmp_path / "b").iterdir())


def test_another_fault_of_the_disk_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        write_bytes(tmp_path / "a", b"1")
    assert not list(tmp_path.iterdir())


def test_files_and_their_names_are_flushed_before_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash leaves is on the disk in that order: data, names, seal."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def named(source: str, target: Path) -> None:
        events.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", named)
    write_files(tmp_path, {"seal": b"s", "a": b"1", "b": b"2"}, seal="seal")
    assert events == ["file", "file", "file", "folder", "a", "b", "folder", "seal", "folder"]


@pytest.mark.parametrize("bits", [(8, 4), (3, 2)])
def test_entropy_coded_weights_open_to_the_same_network(
    bits: tuple[int, int], tmp_path: Path
) -> None:
    pytest.importorskip("constriction")
    onnx, deployed = exported(bits=bits)
    documents: dict[str, object] = {"plan.json": {}, "summary.json": {}}
    sizes = [
        write_artefact(
            tmp_path / name, onnx=onnx, deployed=deployed, graph=graph(), documents=documents,
            coded=name == "coded",
        )
        for name in ("plain", "coded")
    ]  # fmt: skip
    assert sizes[0] == sizes[1] == (tmp_path / "plain" / "weights.safetensors").stat().st_size
    assert read_weights(tmp_path / "coded") == read_weights(tmp_path / "plain")
    check(tmp_path / "coded")


_WANTED = [{"name": "input", "shape": ["batch", 3, 8, 8], "dtype": "float32"}]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"x": images().numpy()}, "takes input; given were x"),
        ({"input": images().double().numpy()}, "dtype float64"),
        ({"input": images()[:, :2].numpy()}, r"shape \[6, 2, 8, 8\]"),
        ({"input": images()[0].numpy()}, "shape"),
        ({"input": images(0).numpy()}, "empty"),
        ({"input": images().numpy() * np.float32("nan")}, "not finite"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: dict[str, np.ndarray], says: str) -> None:
    check_inputs({"input": images().numpy()}, _WANTED)
    with pytest.raises(DataError, match=says):
        check_inputs(inputs, _WANTED)


def test_describe_lists_what_the_network_takes_and_gives() -> None:
    found = describe(exported()[0])
    assert [("input", 3)] == [(x["name"], x["shape"][1]) for x in found["inputs"]]
    assert isinstance(found["inputs"][0]["shape"][0], str)
    assert [("output", "float32")] == [(x["name"], x["dtype"]) for x in found["outputs"]]


def test_weights_can_be_read_alone(tmp_path: Path) -> None:
    assert (
        initializers(exported()[0]).keys()
        == initializers(read_weights(made(tmp_path / "a"))).keys()
    )
