"""Lines of JavaScript that the programs for a page and for Node.js share: from pixels to tensors, and the result."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.placing import placing, scaled

__all__ = ["feeds", "result", "sizes", "tensor"]

_SPELLED = {  # for an object `image`
    "int": "const {name} = {value};",
    "round": "Math.round({x})",
    "floor": "Math.floor({x})",
    "half": "half({x})",
    "float": "{x}",
    "min": "Math.min({a}, {b})",
    "max": "Math.max({a}, {b})",
    "w": "image.width",
    "h": "image.height",
}
_HALF = "const half = (x) => (x + ((x >> 1) & 1)) >> 1;  // rounded to even"

_ARRAYS = {
    "float16": "Uint16Array",  # its bits; engines without Float16Array take nothing else
    "float32": "Float32Array",
    "float64": "Float64Array",
    "uint8": "Uint8Array",
    "int8": "Int8Array",
    "uint16": "Uint16Array",
    "int16": "Int16Array",
    "uint32": "Uint32Array",
    "int32": "Int32Array",
    "uint64": "BigUint64Array",
    "int64": "BigInt64Array",
    "bool": "Uint8Array",
}
# A number is `steps` times the distance of its neighbours, 2^(exponent - 10). Adding steps carries into the exponent.
_FLOAT16 = """\
const float16 = (value) => {  // bits of a float16, rounded to the nearest, ties to even
  const size = Math.abs(Math.fround(value)), exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const steps = size / 2 ** (exponent - 10), whole = Math.floor(steps), rest = steps - whole;
  const up = rest > 0.5 || (rest === 0.5 && whole % 2 === 1) ? 1 : 0;
  return (value < 0 ? 32768 : 0) + (exponent + 14) * 1024 + whole + up;
};"""


def sizes(image: ImageFacts) -> list[str]:
    """Return lines that declare the size of the image that the file takes, and where the image goes."""
    if image.placing == "none":
        return ["const { width, height } = image;  // the file takes any size"]
    size = f"const width = {image.width}, height = {image.height};"
    return [size, *([_HALF] if image.placing == "centre" else []), *placing(image, _SPELLED)]


def tensor(image: ImageFacts, pixels: str, step: int) -> list[str]:
    """Return lines that make ``tensor`` of pixels in rows.

    Args:
        image: The image.
        pixels: Array of numbers from 0 to 255, of ``height * width`` pixels.
        step: Numbers of each pixel. The first three are red, green and blue.
    """
    kind = str(image.input.dtype)
    colours = [f"{pixels}[{step} * at{f' + {channel}' if channel else ''}]" for channel in range(3)]
    pixel = f"{pixels}[{step} * at + {'2 - c' if image.bgr else 'c'}]"
    if image.channels == 1:
        red, green, blue = colours
        pixel = f"Math.round(0.299 * {red} + 0.587 * {green} + 0.114 * {blue})"
    value = scaled(image, pixel, "c", "mean", "std").replace(".0f", "")
    place = f"{image.channels} * at + c" if image.input.channels_last else "c * height * width + at"
    shape = ["1", str(image.channels), "height", "width"]
    shape = ["1", *shape[2:], shape[1]] if image.input.channels_last else shape
    lines = [f"const {name} = {list(numbers)};" for name, numbers in image.scaling.items()]
    if kind == "float16":
        lines, value = [*lines, _FLOAT16], f"float16({value})"
    return [
        *lines,
        f"const values = new {_ARRAYS.get(kind, 'Float32Array')}({image.channels} * height * width);",
        "for (let at = 0; at < height * width; at++)",
        f"  for (let c = 0; c < {image.channels}; c++) values[{place}] = {value};",
        f"const tensor = new ort.Tensor({json.dumps(kind)}, values, [{', '.join(shape)}]);",
    ]


def feeds(facts: Facts) -> str:
    """Return the object of all inputs. Those besides the image are zeros to fill in."""
    parts = [] if facts.image is None else [f"{json.dumps(facts.image.input.name)}: tensor"]
    parts += [f"{json.dumps(spec.name)}: {_zeros(spec)}" for spec in facts.others]
    return f"{{ {', '.join(parts)} }}"


def _zeros(spec: InputSpec) -> str:
    kind, shape = str(spec.dtype), [size or 1 for size in spec.shape]
    count = " * ".join(map(str, shape)) or "1"
    return f"new ort.Tensor({json.dumps(kind)}, new {_ARRAYS.get(kind, 'Float32Array')}({count}), {shape})"


def result(facts: Facts) -> list[str]:
    """Return lines that print the class, or the shape of the first output."""
    output = f"outputs[{json.dumps(facts.output)}]"
    if facts.result == "class":
        return [f"console.log(Number({output}.data[0]));  // number of the class"]
    if facts.result == "tensor":
        return [f"console.log({output}.dims);"]
    scores = [f"const scores = {output}.data;"]
    if facts.output_type == "float16":
        scores = [
            f"const {{ buffer, byteOffset, length }} = {output}.data;",
            "const bits = new Uint16Array(buffer, byteOffset, length);",
            "const scores = Array.from(bits, (each) => (each < 32768 ? each : 32768 - each));  // ordered as float16",
        ]
    return [*scores, "console.log(scores.indexOf(Math.max(...scores)));  // number of the class"]
