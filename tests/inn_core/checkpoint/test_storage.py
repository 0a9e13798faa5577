"""Checkpoints come back as they were, and hostile ones are refused with the reason."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.part_arrays import part_arrays
from inn_core.checkpoint.safetensors import read_tensors, write_tensors
from inn_core.checkpoint.storage import file_digest, load_checkpoint, read_header, save_checkpoint
from inn_core.errors import DigestMismatchError, InnError, InvalidCheckpointError, InvalidWeightsError
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import Template, Term
from inn_core.planning.plan import feasible_range
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.networks import concat_network, residual_network

MAPPINGS = ("weights", "orders", "paths", "curves", "calibration")
PARTS = ("levels", "anchors", "channel_permutations", "trained", "unknown")
Header = dict[str, Any]
Tensors = dict[str, Array]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a size constant in it."""
    path = tmp_path_factory.mktemp("saved") / "concat.inn"
    save_checkpoint(concat_network(), path)
    return path


def tampered(saved: Path, target: Path, change: Callable[[Header, Tensors], object]) -> Path:
    """A changed copy whose digest is right, as an attacker would write it."""
    content = read_tensors(saved, verify=True)
    header, tensors = json.loads(content.text), dict(content.tensors)
    change(header, tensors)
    write_tensors(target, tensors, json.dumps(header))
    return target


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    for field in fields(Checkpoint):
        if field.name not in (*MAPPINGS, *PARTS, "template"):
            assert getattr(found, field.name) == getattr(expected, field.name)
    assert found.template.model == expected.template.model
    assert list(found.template.weights.items()) == list(expected.template.weights.items())
    assert (found.trained is None) == (expected.trained is None)
    if found.trained is not None and expected.trained is not None:
        assert found.trained.sampling == expected.trained.sampling
    for ours, theirs in (
        *((getattr(found, part), getattr(expected, part)) for part in MAPPINGS),
        (part_arrays(found), part_arrays(expected)),
    ):
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert ours[name].dtype == array.dtype
            np.testing.assert_array_equal(ours[name], array)


@pytest.mark.parametrize("verify", [True, False])
def test_a_network_comes_back_as_it_was(real_network: Checkpoint, tmp_path: Path, verify: bool) -> None:
    path = tmp_path / "n.inn"
    digest = save_checkpoint(real_network, path)
    found = load_checkpoint(path, verify=verify)
    assert_equal(found, real_network)
    assert digest == file_digest(path)
    assert list(found.weights) == list(real_network.template.weights)
    assert save_checkpoint(found, tmp_path / "again.inn") == digest


def test_arrays_are_read_only_views_of_the_file(saved: Path) -> None:
    network = load_checkpoint(saved)
    for arrays in (*(getattr(network, part) for part in MAPPINGS), network.unknown):
        for array in arrays.values():
            assert not array.flags.writeable
            assert array.base is not None


def test_sampling_comes_back_and_is_absent_from_networks_that_were_never_trained(saved: Path, tmp_path: Path) -> None:
    """Files of releases that knew no training have no such member and keep their digests."""
    assert "sampling" not in read_header(saved)
    assert load_checkpoint(saved).trained is None
    trained = IntegralNetwork(replace(concat_network(), anchors=(), unknown={})).to_checkpoint()
    save_checkpoint(trained, tmp_path / "n.inn")
    assert read_header(tmp_path / "n.inn")["sampling"] == {"kind": "nested"}
    assert_equal(load_checkpoint(tmp_path / "n.inn"), trained)


@pytest.mark.parametrize(
    "sampling", [[["kind", "nested"]], "nested", 7, None, {"kind": None}, {"kind": ["nested"]}, {"kind": "kernel"}]
)
def test_a_sampling_of_another_form_is_refused(saved: Path, tmp_path: Path, sampling: Any) -> None:
    path = tampered(saved, tmp_path / "bad.inn", _set("sampling", sampling))
    with pytest.raises(InvalidCheckpointError, match=r"'bad\.inn' is not a usable checkpoint"):
        load_checkpoint(path)


def test_a_network_without_samples_and_statistics_comes_back(residual: Checkpoint, tmp_path: Path) -> None:
    bare = replace(residual, calibration={}, anchors=(), unknown={}, provenance={})
    save_checkpoint(bare, tmp_path / "n.inn")
    assert_equal(load_checkpoint(tmp_path / "n.inn"), bare)


def test_the_header_is_read_without_the_arrays(saved: Path, tmp_path: Path) -> None:
    header = read_header(saved)
    assert header["name"] == "concat"
    assert header["format_version"] == 1
    assert header["provenance"] == concat_network().provenance
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    (tmp_path / "changed.inn").write_bytes(data)
    assert read_header(tmp_path / "changed.inn") == header


def test_a_changed_byte_has_another_digest(saved: Path, tmp_path: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-100] ^= 1
    path = tmp_path / "changed.inn"
    path.write_bytes(data)
    with pytest.raises(DigestMismatchError, match=r"checkpoint 'changed\.inn' has digest sha256"):
        load_checkpoint(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_flips_and_cuts_are_always_found(saved: Path, tmp_path: Path, data: st.DataObject) -> None:
    original = saved.read_bytes()
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    del changed[data.draw(st.integers(0, len(changed))) :]
    path = tmp_path / "fuzz.inn"
    path.write_bytes(changed)
    if bytes(changed) != original:
        with pytest.raises(InnError):
            load_checkpoint(path)
    with suppress(InnError):
        load_checkpoint(path, verify=False)


def _set(*keys: Any) -> Callable[[Header, Tensors], object]:
    """Set `header[keys[0]][keys[1]]… = keys[-1]`."""

    def change(header: Header, tensors: Tensors) -> None:
        inner: Any = header
        for key in keys[:-2]:
            inner = inner[key]
        inner[keys[-2]] = keys[-1]

    return change


def _delete(key: str) -> Callable[[Header, Tensors], object]:
    return lambda header, tensors: header.pop(key)


def _without(name: str) -> Callable[[Header, Tensors], object]:
    return lambda header, tensors: tensors.pop(name)


def _array(name: str, array: Array) -> Callable[[Header, Tensors], object]:
    return lambda header, tensors: tensors.update({name: array})


def _levels(levels: Array) -> Callable[[Header, Tensors], object]:
    """Levels for samples that are no codes."""

    def change(header: Header, tensors: Tensors) -> None:
        header["statistics"].append("levels/x")
        tensors["s/levels/x"] = levels

    return change


def _model(change: Callable[[onnx.ModelProto], object]) -> Callable[[Header, Tensors], object]:
    def apply(header: Header, tensors: Tensors) -> None:
        model = onnx.ModelProto.FromString(tensors["template"].tobytes())
        change(model)
        tensors["template"] = np.frombuffer(model.SerializeToString(), dtype=np.uint8)

    return apply


FLOAT = numpy_helper.from_array(np.zeros(3, np.float32), "extra")
EXTERNAL = TensorProto(name="far", data_type=TensorProto.INT64, dims=[1], data_location=TensorProto.EXTERNAL)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("format_version", 2), "format version 2; this release reads version 1"),
        (_delete("format_version"), "format version None"),
        (_delete("structure"), "'structure' is missing"),
        (_delete("weights"), "'weights' is missing"),
        (_set("name", "../etc"), "does not match"),
        (_set("name", 7), None),
        (_set("name", None), None),
        (_set("provenance", [1]), "malformed"),
        (_set("structure", []), "malformed"),
        (_set("structure", "groups", 0, "size", 10**30), None),
        (_set("structure", "groups", 0, "size", -1), "malformed"),
        (_set("structure", "groups", 0, "size", True), "malformed"),
        (_set("structure", "groups", 0, "minimum", 0), "has minimum 0 and size 4"),
        (_set("structure", "groups", 0, "minimum", 5), "has minimum 5 and size 4"),
        (_set("structure", "groups", 0, "name", "b"), "two groups have the same name"),
        (_set("structure", "groups", 0, "name", ""), "malformed"),
        (_set("structure", "groups", 0, "places", [["nowhere", 0]]), "names axis 0 of 'nowhere'"),
        (_set("structure", "groups", 0, "places", [["left.weight", 9]]), "names axis 9 of 'left.weight'"),
        (_set("structure", "weights", 0, 1, 0, [["ghost"]]), "unknown group 'ghost'"),
        (_set("structure", "values", 1, 1, 0, [["ghost"]]), "unknown group 'ghost'"),
        (_set("structure", "macs", 0, 0, -1), "malformed"),
        (_set("structure", "macs", 0, 0, 10**40), "units of cost"),
        (_set("structure", "macs", 0, 0, 1.5), "malformed"),
        (_set("structure", "constants", 0, 0, "nowhere"), "belongs in constant 'nowhere'"),
        (_set("structure", "constants", 0, 1, 99), "position 99"),
        (_set("structure", "constants", 0, 2, [["c", 10**30]]), "holds 2 values of int64, but the size 7000"),
        (_set("structure", "attributes", [["left", "group", [[10**30]]]]), "attribute 'group' of node 'left'"),
        (_set("structure", "values", 0, 1, 1, [["c"]]), "unknown or not fixed"),
        (_set("structure", "values", 0, 1, 1, [[4]]), "another shape than its axes"),
        (_set("structure", "attributes", [["nowhere", "group", [["a"]]]]), "node 'nowhere'"),
        (_set("weights", 0, 1, [4, 3, 3, 4]), "must be equal"),
        (_set("weights", 0, 1, [2**40, 3, 3, 3]), "must be equal"),
        (_set("weights", 0, 2, 99), None),
        (_set("weights", 0, 2, TensorProto.DOUBLE), "dtype float32"),
        (_set("weights", 0, 0, "other"), "missing or not listed"),
        (_set("statistics", []), "missing or not listed"),
        (_set("calibration", ["y"]), "missing or not listed"),
        (_without("template"), "'template' is missing"),
        (_without("w/left.weight"), "'left.weight' is missing"),
        (_without("o/a"), "orders of missing name 'a'"),
        (_without("d/a"), "curves of missing name 'a'"),
        (_without("p/macs"), "paths of missing name 'macs'"),
        (_array("zz", np.zeros(1)), "unknown array 'zz'"),
        (_array("o/a", np.array([0, 1, 2, 2])), "no permutation of 4"),
        (_array("o/a", np.array([0, 1, 2, -1])), "no permutation of 4"),
        (_array("o/a", np.arange(3)), "no permutation of 4"),
        (_array("o/a", np.arange(4, dtype=np.int32)), "no permutation of 4"),
        (_array("o/a", np.arange(4).reshape(2, 2)), "no permutation of 4"),
        (_array("o/ghost", np.arange(4)), "orders of unknown name 'ghost'"),
        (_array("d/a", np.zeros(4)), "not \\(5,\\)"),
        (_array("d/a", np.full(5, np.nan)), "not finite"),
        (_array("p/macs", np.zeros(3, dtype=np.int32)), "size path for macs"),
        (_array("p/macs", np.full(14, 2**31 - 1, dtype=np.int32)), "size path for macs"),
        (_array("p/macs", np.full(14, -1, dtype=np.int32)), "size path for macs"),
        (_array("w/left.weight", np.zeros((4, 3, 3, 4), np.float32)), "must be equal"),
        (_array("c/x", np.full((2, 3, 8, 8), np.inf, np.float32)), "calibration input 'x' holds NaN or infinity"),
        (_array("c/x", np.zeros((0, 3, 8, 8), np.float32)), "have \\[0\\] samples"),
        (_array("c/x", np.zeros((9, 3, 8, 7), np.float32)), "unlike the graph input"),
        (_levels(np.zeros((1, 256), np.float32)), "levels of calibration input 'x'"),
        (_array("template", np.full(50, 255, dtype=np.uint8)), "not an ONNX model"),
        (_array("template", np.zeros(0, dtype=np.uint8)), None),
        (_model(lambda m: m.graph.initializer.append(FLOAT)), "still holds the float initializer 'extra'"),
        (_model(lambda m: m.graph.initializer.append(EXTERNAL)), "keeps its data in another file"),
        (_model(lambda m: m.graph.node[0].input.__setitem__(0, "ghost")), "reads 'ghost'"),
        (_model(lambda m: m.graph.node.reverse()), "which nothing before it writes"),
        (_model(lambda m: m.graph.node[1].output.__setitem__(0, "l")), "value 'l' is defined twice"),
        (_model(lambda m: m.graph.node[1].__setattr__("name", "left")), "used twice"),
        (_model(lambda m: m.graph.output.append(helper.make_tensor_value_info("z", 1, [1]))), "'z' is written by no"),
    ],
)
def test_a_hostile_checkpoint_is_refused_with_the_reason(
    saved: Path, tmp_path: Path, change: Callable[[Header, Tensors], object], reason: str | None
) -> None:
    path = tampered(saved, tmp_path / "bad.inn", change)
    for verify in (True, False):
        with pytest.raises(InvalidCheckpointError, match=reason) as caught:
            load_checkpoint(path, verify=verify)
        assert "'bad.inn' is not a usable checkpoint" in caught.value.message


@pytest.mark.parametrize(("value", "found"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
def test_weights_that_are_not_finite_are_refused(saved: Path, tmp_path: Path, value: float, found: str) -> None:
    def change(header: Header, tensors: Tensors) -> None:
        weight = tensors["w/mix.weight"].copy()
        weight[0, 0, 0, 0] = value
        tensors["w/mix.weight"] = weight

    path = tampered(saved, tmp_path / "bad.inn", change)
    with pytest.raises(InvalidWeightsError, match=f"'mix.weight' holds {found}"):
        load_checkpoint(path)


@pytest.mark.parametrize("text", ["", "[]", "7", "not json", "[" * 100_000, '{"format_version": 1e999}'])
def test_a_header_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    write_tensors(tmp_path / "bad.inn", {}, text)
    for read in (load_checkpoint, read_header):
        with pytest.raises(InvalidCheckpointError):
            read(tmp_path / "bad.inn")


def _places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every position inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix] * bool(prefix) + [place for key, item in inner for place in _places(item, (*prefix, key))]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.randoms(use_true_random=False),
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(), st.text(max_size=3), st.just([]), st.just({})
    ),
)
def test_a_header_with_one_wrong_value_never_crashes(saved: Path, tmp_path: Path, random: Any, value: Any) -> None:
    header = copy.deepcopy(read_header(saved))
    place = random.choice(_places(header))
    path = tampered(saved, tmp_path / "fuzz.inn", _set(*place, value))
    with suppress(InnError):
        network = load_checkpoint(path)
        assert len(feasible_range(network, "params")) == len(feasible_range(network, "macs", 8))
        resize_template(network.template, network.structure, network.structure.full_sizes())


def test_a_network_that_contradicts_itself_is_not_written(residual: Checkpoint, tmp_path: Path) -> None:
    broken = replace(residual, orders={"a": np.zeros(8, dtype=np.int64), "b": np.arange(6)})
    with pytest.raises(InvalidCheckpointError, match=r"'residual' cannot be written: the order of group 'a'"):
        save_checkpoint(broken, tmp_path / "n.inn")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_written(residual: Checkpoint, tmp_path: Path) -> None:
    weights = {**residual.weights, "fc.bias": np.full(5, np.nan, dtype=np.float32)}
    with pytest.raises(InvalidWeightsError, match=r"'fc\.bias' holds NaN"):
        save_checkpoint(replace(residual, weights=weights), tmp_path / "n.inn")


def test_half_and_double_precision_weights_come_back(tmp_path: Path) -> None:
    network = residual_network()
    types = {"conv1.weight": TensorProto.FLOAT16, "fc.weight": TensorProto.DOUBLE}
    weights = {
        name: array.astype(helper.tensor_dtype_to_np_dtype(types.get(name, TensorProto.FLOAT)))
        for name, array in network.weights.items()
    }
    declared = {name: (shape, types.get(name, kind)) for name, (shape, kind) in network.template.weights.items()}
    mixed = replace(network, weights=weights, template=Template(network.template.model, declared))
    save_checkpoint(mixed, tmp_path / "n.inn")
    assert_equal(load_checkpoint(tmp_path / "n.inn"), mixed)


def test_names_of_any_kind_survive(residual: Checkpoint, tmp_path: Path) -> None:
    odd = replace(
        residual,
        unknown={'gram/größe "x"\n': np.eye(2)},
        provenance={"quote": "\"'\\", "unicode": "é😀", "nested": {"list": [1, None, True, 0.5]}},
        structure=replace(residual.structure, macs=(*residual.structure.macs, Term(0, ()))),
    )
    save_checkpoint(odd, tmp_path / "n.inn")
    assert_equal(load_checkpoint(tmp_path / "n.inn"), odd)
