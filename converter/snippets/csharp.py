"""A program in C#, with ImageSharp for the image."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.placing import placing, scaled

__all__ = ["csharp"]

_TYPES = {
    "float32": "float",
    "float64": "double",
    "uint8": "byte",
    "int8": "sbyte",
    "int32": "int",
    "int64": "long",
    "bool": "bool",
}
_SPELLED = {
    "int": "int {name} = {value};",
    "round": "(int)Math.Round({x})",
    "floor": "{x}",
    "half": "(int)Math.Round(({x}) / 2.0)",
    "float": "{x}",
    "min": "Math.Min({a}, {b})",
    "max": "Math.Max({a}, {b})",
    "w": "image.Width",
    "h": "image.Height",
}


def csharp(facts: Facts) -> str:
    """Return the program, with top-level statements."""
    modules = ["System.Linq", "Microsoft.ML.OnnxRuntime", "Microsoft.ML.OnnxRuntime.Tensors"]
    if facts.image is not None:
        modules += ["SixLabors.ImageSharp", "SixLabors.ImageSharp.PixelFormats"]
        modules += [] if facts.image.placing == "none" else ["SixLabors.ImageSharp.Processing"]
    provider = {
        "OpenVINOExecutionProvider": "options.AppendExecutionProvider_OpenVINO();",
        "QNNExecutionProvider": 'options.AppendExecutionProvider("QNN", new() { ["backend_path"] = "QnnHtp.dll" });',
        "CUDAExecutionProvider": "options.AppendExecutionProvider_CUDA();",
        "TensorrtExecutionProvider": "options.AppendExecutionProvider_Tensorrt();",
        "NnapiExecutionProvider": "options.AppendExecutionProvider_Nnapi();",
    }.get("" if facts.options else facts.provider)
    lines = [
        *(f"using {module};" for module in modules),
        "",
        "var options = new SessionOptions();",
        *([provider] if provider else []),
        f"using var session = new InferenceSession({json.dumps(facts.file)}, options);",
    ]
    feeds = []
    if facts.image is not None:
        lines += ["", *_image(facts.image)]
        feeds.append(_feed(facts.image.input.name, "tensor"))
    feeds += [_feed(spec.name, _zeros(spec)) for spec in facts.others]
    return "\n".join(
        [*lines, "", f"using var outputs = session.Run(new[] {{ {', '.join(feeds)} }});", *_result(facts), ""]
    )


def _feed(name: str, tensor: str) -> str:
    return f"NamedOnnxValue.CreateFromTensor({json.dumps(name)}, {tensor})"


def _image(image: ImageFacts) -> list[str]:
    kind = _TYPES.get(str(image.input.dtype), "float")
    bytes_as_they_are = kind == "byte" and image.input.channels_last
    pixel = "L8" if image.channels == 1 else "Bgr24" if image.bgr and bytes_as_they_are else "Rgb24"
    fill = ", ".join([f"(byte){image.pad}"] * (1 if image.channels == 1 else 3))
    parts = ["pixel.PackedValue"] if image.channels == 1 else ["pixel.R", "pixel.G", "pixel.B"]
    parts = parts[::-1] if image.bgr else parts
    where = {"stretch": "0, 0", "centre": "-left, -top"}.get(image.placing, "left, top")
    height, width = ("height", "width") if image.placing == "none" else (image.height, image.width)
    sides = f"{height}, {width}"
    sizes = f"{sides}, {image.channels}" if image.input.channels_last else f"{image.channels}, {sides}"
    placed = "image" if image.placing == "none" else "placed"
    resized = [
        *placing(image, _SPELLED),
        "image.Mutate(edit => edit.Resize(dw, dh, KnownResamplers.Triangle));",
        f"using var placed = new Image<{pixel}>({image.width}, {image.height}, new {pixel}({fill}));",
        f"placed.Mutate(edit => edit.DrawImage(image, new Point({where}), 1f));",
    ]
    any_size = ["int height = image.Height, width = image.Width; // the file takes any size"]
    lines = [
        f'using var image = Image.Load<{pixel}>("image.jpg");',
        *(any_size if image.placing == "none" else resized),
    ]
    if bytes_as_they_are:
        return [
            *lines,
            f"var pixels = new byte[{height} * {width} * {image.channels}];",
            f"{placed}.CopyPixelDataTo(pixels);",
            f"var tensor = new DenseTensor<byte>(pixels, new[] {{ 1, {sizes} }});",
        ]
    lines += [f"float[] {name} = {_floats(numbers)};" for name, numbers in image.scaling.items()]
    lines += [
        f"var tensor = new DenseTensor<{kind}>(new[] {{ 1, {sizes} }});",
        f"for (int y = 0; y < {height}; y++)",
        f"    for (int x = 0; x < {width}; x++)",
        "    {",
        f"        var pixel = {placed}[x, y];",
    ]
    for channel, part in enumerate(parts):
        where = f"0, y, x, {channel}" if image.input.channels_last else f"0, {channel}, y, x"
        lines.append(f"        tensor[{where}] = {scaled(image, part, str(channel), 'mean', 'std')};")
    return [*lines, "    }"]


def _floats(numbers: tuple[float, ...]) -> str:
    return "{ " + ", ".join(f"{float(number)!r}f" for number in numbers) + " }"


def _zeros(spec: InputSpec) -> str:
    shape = ", ".join(str(size or 1) for size in spec.shape)
    return f"new DenseTensor<{_TYPES.get(str(spec.dtype), 'float')}>(new[] {{ {shape} }})"


def _result(facts: Facts) -> list[str]:
    output = f"outputs.First(output => output.Name == {json.dumps(facts.output)})"
    if facts.result == "class":
        return [f"Console.WriteLine({output}.AsTensor<long>().First()); // number of the class"]
    if facts.result == "scores":
        return [
            f"var scores = {output}.AsTensor<float>().ToArray();",
            "Console.WriteLine(Array.IndexOf(scores, scores.Max())); // number of the class",
        ]
    return [f"Console.WriteLine({output}.AsTensor<float>().Length);"]
