"""A program in C++, with OpenCV for the image."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.placing import placing, scaled

__all__ = ["cpp"]

_TYPES = {
    "float16": "Ort::Float16_t",
    "float32": "float",
    "float64": "double",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_SPELLED = {
    "int": "const int {name} = {value};",
    "round": "static_cast<int>(std::lrint({x}))",
    "floor": "{x}",
    "half": "static_cast<int>(std::lrint(({x}) / 2.0))",
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
    }.get("" if facts.options else facts.provider)
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
        includes += ["#include <opencv2/imgcodecs.hpp>", "#include <opencv2/imgproc.hpp>"]
    return "\n".join([*includes, "", "int main() {", *(f"  {line}" for line in body), "}", ""])


def _path(name: str) -> str:
    return f"ORT_TSTR({json.dumps(name)})"


def _image(image: ImageFacts) -> list[str]:
    grey, kind = image.channels == 1, _TYPES.get(str(image.input.dtype), "float")
    colour = "cv::COLOR_BGR2GRAY" if grey else None if image.bgr else "cv::COLOR_BGR2RGB"
    lines = [
        'cv::Mat image = cv::imread("image.jpg", cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION);  // BGR',
        *([f"cv::cvtColor(image, image, {colour});"] if colour else []),
        *_placed(image, "CV_8UC1" if grey else "CV_8UC3"),
        f"std::vector<{kind}> values({image.channels} * height * width);",
    ]
    lines += [f"const float {name}[] = {_floats(numbers)};" for name, numbers in image.scaling.items()]
    place = f"(y * width + x) * {image.channels} + c" if image.input.channels_last else "(c * height + y) * width + x"
    value = scaled(image, f"placed.ptr(y)[x * {image.channels} + c]", "c", "mean", "std")
    sizes = f"height, width, {image.channels}" if image.input.channels_last else f"{image.channels}, height, width"
    return [
        *lines,
        "for (int y = 0; y < height; ++y)",
        "  for (int x = 0; x < width; ++x)",
        f"    for (int c = 0; c < {image.channels}; ++c)",
        f"      values[{place}] = {f'Ort::Float16_t({value})' if kind == _TYPES['float16'] else value};",
        f"const int64_t shape[] = {{1, {sizes}}};",
        f"tensors.push_back(Ort::Value::CreateTensor<{kind}>(memory, values.data(), values.size(), shape, 4));",
    ]


def _placed(image: ImageFacts, form: str) -> list[str]:
    """Lines that make ``placed``, of ``height`` and ``width``, from ``image``."""
    if image.placing == "none":
        return [
            "const int width = image.cols, height = image.rows;  // the file takes any size",
            "cv::Mat placed = image;",
        ]
    lines = [
        f"const int width = {image.width}, height = {image.height};",
        *placing(image, _SPELLED),
        "cv::resize(image, image, cv::Size(dw, dh), 0, 0, dw < image.cols ? cv::INTER_AREA : cv::INTER_LINEAR);",
    ]
    if image.placing == "stretch":
        return [*lines, "cv::Mat placed = image;"]
    if image.placing == "centre":
        return [*lines, "cv::Mat placed = image(cv::Rect(left, top, width, height));"]
    return [
        *lines,
        f"cv::Mat placed(height, width, {form}, cv::Scalar::all({image.pad}));",
        "image.copyTo(placed(cv::Rect(left, top, dw, dh)));",
    ]


def _zeros(spec: InputSpec, index: int) -> list[str]:
    kind = _TYPES.get(str(spec.dtype), "float")
    shape = [size or 1 for size in spec.shape]
    count = " * ".join(map(str, shape)) or "1"
    return [
        f"static {kind} values{index}[{count}];  // your numbers of {spec.name}",
        f"const std::vector<int64_t> shape{index} = {{{', '.join(map(str, shape))}}};",
        f"tensors.push_back(Ort::Value::CreateTensor<{kind}>(memory, values{index}, {count}, shape{index}.data(), "
        f"shape{index}.size()));",
    ]


def _floats(numbers: tuple[float, ...]) -> str:
    return "{" + ", ".join(f"{float(number)!r}f" for number in numbers) + "}"


def _result(facts: Facts) -> list[str]:
    if facts.result == "class":
        return ["std::cout << results[0].GetTensorData<int64_t>()[0] << std::endl;  // number of the class"]
    if facts.result == "tensor":
        return ["std::cout << results[0].GetTensorTypeAndShapeInfo().GetElementCount() << std::endl;"]
    kind = _TYPES.get(facts.output_type, "float")
    order = ", [](auto a, auto b) { return a.ToFloat() < b.ToFloat(); }" if kind == _TYPES["float16"] else ""
    return [
        f"const {kind}* scores = results[0].GetTensorData<{kind}>();",
        "const size_t count = results[0].GetTensorTypeAndShapeInfo().GetElementCount();",
        f"std::cout << std::max_element(scores, scores + count{order}) - scores << std::endl;  // number of the class",
    ]
