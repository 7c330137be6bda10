"""A program in C++, with OpenCV for the image."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.placing import rectangles, scaled

__all__ = ["cpp"]

_TYPES = {"float32": "float", "float64": "double", "uint8": "uint8_t", "int8": "int8_t", "int32": "int32_t"}
_SPELLED = {
    "int": "const int {name} = {value};",
    "round": "static_cast<int>(std::lround({x}))",
    "float": "{x}",
    "min": "std::min({a}, {b})",
    "max": "std::max({a}, {b})",
    "w": "image.cols",
    "h": "image.rows",
}


def cpp(facts: Facts) -> str:
    """Return the program."""
    image = facts.image
    headers = ["algorithm", "cmath", "cstdint", "iostream", "vector", "onnxruntime_cxx_api.h"]
    tensors = [] if image is None else _image(image)
    feeds = [] if image is None else [image.input.name]
    for spec in facts.others:
        tensors += _zeros(spec, len(feeds))
        feeds.append(spec.name)
    provider = {
        "OpenVINOExecutionProvider": 'options.AppendExecutionProvider("OpenVINO", {});',
        "QNNExecutionProvider": 'options.AppendExecutionProvider("QNN", {{"backend_path", "libQnnHtp.so"}});',
        "CUDAExecutionProvider": "options.AppendExecutionProvider_CUDA(OrtCUDAProviderOptions{});",
        "TensorrtExecutionProvider": "options.AppendExecutionProvider_TensorRT(OrtTensorRTProviderOptions{});",
    }.get(facts.provider)
    body = [
        "Ort::Env env;",
        "Ort::SessionOptions options;",
        *([provider] if provider else []),
        f"Ort::Session session(env, {_path(facts.file)}, options);",
        "auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);",
        "std::vector<Ort::Value> tensors;",
        *tensors,
        f"const char* inputs[] = {{{', '.join(map(json.dumps, feeds))}}};",
        f"const char* outputs[] = {{{json.dumps(facts.output)}}};",
        "auto results = session.Run(Ort::RunOptions{}, inputs, tensors.data(), tensors.size(), outputs, 1);",
        *_result(facts),
    ]
    includes = [f"#include <{name}>" for name in headers]
    if image is not None:
        includes.append("#include <opencv2/opencv.hpp>")
    return "\n".join([*includes, "", "int main() {", *(f"  {line}" for line in body), "}", ""])


def _path(name: str) -> str:
    return f"ORT_TSTR({json.dumps(name)})"


def _image(image: ImageFacts) -> list[str]:
    grey, kind = image.channels == 1, _TYPES.get(str(image.input.dtype), "float")
    colour = "cv::COLOR_BGR2GRAY" if grey else None if image.bgr else "cv::COLOR_BGR2RGB"
    flag, form = "cv::IMREAD_COLOR", "CV_8UC1" if grey else "CV_8UC3"
    lines = [
        f'cv::Mat image = cv::imread("image.jpg", {flag});  // BGR',
        *([f"cv::cvtColor(image, image, {colour});"] if colour else []),
        *rectangles(image, _SPELLED),
        f"cv::Mat placed({image.height}, {image.width}, {form}, cv::Scalar::all({image.pad}));",
        "cv::resize(image(cv::Rect(sx, sy, sw, sh)), placed(cv::Rect(dx, dy, dw, dh)), cv::Size(dw, dh), 0, 0, "
        "cv::INTER_AREA);",
        f"std::vector<{kind}> values({image.channels * image.height * image.width});",
    ]
    if not image.pixels:
        lines.append(f"const float mean[] = {_floats(image.mean)}, std_[] = {_floats(image.std)};")
    place = (
        f"(y * {image.width} + x) * {image.channels} + c"
        if image.input.channels_last
        else f"(c * {image.height} + y) * {image.width} + x"
    )
    value = scaled(image, f"placed.ptr(y)[x * {image.channels} + c]", "c", "mean", "std_")
    lines += [
        f"for (int y = 0; y < {image.height}; ++y)",
        f"  for (int x = 0; x < {image.width}; ++x)",
        f"    for (int c = 0; c < {image.channels}; ++c)",
        f"      values[{place}] = {value};",
        f"const int64_t shape[] = {{{', '.join(map(str, image.shape))}}};",
        f"tensors.push_back(Ort::Value::CreateTensor<{kind}>(memory, values.data(), values.size(), shape, 4));",
    ]
    return lines


def _zeros(spec: InputSpec, index: int) -> list[str]:
    kind = _TYPES.get(str(spec.dtype), "int64_t" if spec.dtype.kind in "iu" else "float")
    shape = [size or 1 for size in spec.shape]
    count = " * ".join(map(str, shape)) or "1"
    return [
        f"std::vector<{kind}> values{index}({count});  // your numbers of {spec.name}",
        f"const std::vector<int64_t> shape{index} = {{{', '.join(map(str, shape))}}};",
        f"tensors.push_back(Ort::Value::CreateTensor<{kind}>(memory, values{index}.data(), values{index}.size(), "
        f"shape{index}.data(), shape{index}.size()));",
    ]


def _floats(numbers: tuple[float, ...]) -> str:
    return "{" + ", ".join(f"{float(number)!r}f" for number in numbers) + "}"


def _result(facts: Facts) -> list[str]:
    if facts.result == "class":
        return ["std::cout << results[0].GetTensorData<int64_t>()[0] << std::endl;  // number of the class"]
    if facts.result == "scores":
        return [
            "const float* scores = results[0].GetTensorData<float>();",
            "const size_t count = results[0].GetTensorTypeAndShapeInfo().GetElementCount();",
            "std::cout << std::max_element(scores, scores + count) - scores << std::endl;  // number of the class",
        ]
    return ["std::cout << results[0].GetTensorTypeAndShapeInfo().GetElementCount() << std::endl;"]
