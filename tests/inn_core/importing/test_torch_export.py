"""A torch module becomes an ONNX model with a free batch axis, or a clear refusal."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inn_core.errors import InvalidModuleError
from inn_core.graph.analysis.source import read_onnx
from inn_core.importing.torch_export import export_factory
from tests.inn_core import factories
from tests.inn_core.graph.tiny import run

HERE = "tests.inn_core.factories"


def test_a_module_computes_the_same_in_onnx_runtime_for_any_batch(capsys: pytest.CaptureFixture[str]) -> None:
    model = read_onnx(export_factory(f"{HERE}:small").SerializeToString())
    module, _ = factories.small()
    module.eval()
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        expected = module(x).detach().numpy()
        (found,) = run(model, {model.graph.input[0].name: x.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("factory", ["two", "two_by_name"])
def test_several_inputs_as_a_tuple_or_by_name(factory: str) -> None:
    model = export_factory(f"{HERE}:{factory}")
    assert [value.name for value in model.graph.input] == ["first", "second"]
    module, _ = factories.two()
    first, second = torch.randn(5, 4), torch.randn(5, 3)
    (found,) = run(model, {"first": first.numpy(), "second": second.numpy()})
    np.testing.assert_allclose(found, module(first, second).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (":factory", "is not of the form package.module:factory"),
        ("tests.inn_core.factories:", "is not of the form package.module:factory"),
        ("no_such_package.at_all:make", "module 'no_such_package' of 'no_such_package.at_all:make' is not installed"),
        (f"{HERE}:missing", f"module '{HERE}' has no 'missing'"),
        (f"{HERE}:only_a_module", r"returned Two; a factory returns \(module, example inputs\)"),
        (f"{HERE}:odd_example", "gave example inputs of type int; give a tensor, a tuple or a dict"),
        (f"{HERE}:unexportable", "cannot be exported to ONNX with a free batch axis: .*import the .onnx file"),
    ],
)
def test_what_cannot_be_exported_says_why(reference: str, message: str) -> None:
    with pytest.raises(InvalidModuleError, match=message) as caught:
        export_factory(reference)
    assert caught.value.fields["reference"] == reference
