"""A page's script in JavaScript, with onnxruntime-web and a canvas."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.placing import rectangles, scaled

__all__ = ["javascript"]

_ARRAYS = {
    "float32": "Float32Array",
    "float64": "Float64Array",
    "uint8": "Uint8Array",
    "int8": "Int8Array",
    "int32": "Int32Array",
    "int64": "BigInt64Array",
    "bool": "Uint8Array",
}
_SPELLED = {
    "int": "const {name} = {value};",
    "round": "Math.round({x})",
    "float": "{x}",
    "min": "Math.min({a}, {b})",
    "max": "Math.max({a}, {b})",
    "w": "image.width",
    "h": "image.height",
}


def javascript(facts: Facts) -> str:
    """Return the script. It is a module, for a page or for a bundler."""
    lines = [
        'import * as ort from "onnxruntime-web";',
        "",
        'const options = { executionProviders: ["wasm"] };',
        f"const session = await ort.InferenceSession.create({json.dumps(facts.file)}, options);",
    ]
    feeds = []
    if facts.image is not None:
        lines += ["", *_image(facts.image)]
        feeds.append(f"{json.dumps(facts.image.input.name)}: tensor")
    feeds += [f"{json.dumps(spec.name)}: {_zeros(spec)}" for spec in facts.others]
    lines += ["", f"const outputs = await session.run({{ {', '.join(feeds)} }});", *_result(facts)]
    return "\n".join([*lines, ""])


def _image(image: ImageFacts) -> list[str]:
    array = _ARRAYS.get(str(image.input.dtype), "Float32Array")
    place = f"at * {image.channels} + c" if image.input.channels_last else f"c * {image.height * image.width} + at"
    source = "2 - c" if image.bgr else "c"
    pixel = f"rgba[4 * at + {source}]"
    if image.channels == 1:
        pixel = "Math.round(0.299 * rgba[4 * at] + 0.587 * rgba[4 * at + 1] + 0.114 * rgba[4 * at + 2])"
    value = scaled(image, pixel, "c", "mean", "std").replace(".0f", "")
    lines = [
        'const image = await createImageBitmap(await (await fetch("image.jpg")).blob());',
        *rectangles(image, _SPELLED),
        f'const context = new OffscreenCanvas({image.width}, {image.height}).getContext("2d");',
        f'context.fillStyle = "rgb({image.pad} {image.pad} {image.pad})";',
        f"context.fillRect(0, 0, {image.width}, {image.height});",
        'context.imageSmoothingQuality = "high";',
        "context.drawImage(image, sx, sy, sw, sh, dx, dy, dw, dh);",
        f"const rgba = context.getImageData(0, 0, {image.width}, {image.height}).data;",
    ]
    if not image.pixels:
        lines += [f"const mean = {list(image.mean)};", f"const std = {list(image.std)};"]
    return [
        *lines,
        f"const values = new {array}({image.channels * image.height * image.width});",
        f"for (let at = 0; at < {image.height * image.width}; at++)",
        f"  for (let c = 0; c < {image.channels}; c++) values[{place}] = {value};",
        f"const tensor = new ort.Tensor({json.dumps(str(image.input.dtype))}, values, {list(image.shape)});",
    ]


def _zeros(spec: InputSpec) -> str:
    kind, shape = str(spec.dtype), [size or 1 for size in spec.shape]
    count = " * ".join(map(str, shape)) or "1"
    return f"new ort.Tensor({json.dumps(kind)}, new {_ARRAYS.get(kind, 'Float32Array')}({count}), {shape})"


def _result(facts: Facts) -> list[str]:
    output = f"outputs[{json.dumps(facts.output)}]"
    if facts.result == "class":
        return [f"console.log(Number({output}.data[0])); // number of the class"]
    if facts.result == "scores":
        return [
            f"const scores = {output}.data;",
            "console.log(scores.indexOf(Math.max(...scores))); // number of the class",
        ]
    return [f"console.log({output}.dims);"]
