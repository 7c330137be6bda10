"""A function in Kotlin, for an app on Android."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.placing import placing, scaled

__all__ = ["android"]

_BUFFERS = {"float32": "FloatBuffer", "int32": "IntBuffer", "int64": "LongBuffer", "float64": "DoubleBuffer"}
_SPELLED = {
    "int": "val {name} = {value}",
    "round": "Math.round({x}).toInt()",
    "floor": "{x}",
    "half": "Math.rint(({x}) / 2.0).toInt()",
    "float": "{x}",
    "min": "minOf({a}, {b})",
    "max": "maxOf({a}, {b})",
    "w": "image.width",
    "h": "image.height",
}


def android(facts: Facts) -> str:
    """Return the function."""
    imports = ["ai.onnxruntime.OnnxJavaType", "ai.onnxruntime.OnnxTensor", "ai.onnxruntime.OrtEnvironment"]
    imports += ["ai.onnxruntime.OrtSession", "android.content.res.AssetManager", "java.nio.*"]
    if facts.image is not None:
        imports += ["android.graphics.*"]
    given = "assets: AssetManager" + ("" if facts.image is None else ", image: Bitmap")
    provider = {"NnapiExecutionProvider": "options.addNnapi()", "QNNExecutionProvider": "options.addQnn(emptyMap())"}
    lines = [
        "val environment = OrtEnvironment.getEnvironment()",
        "val options = OrtSession.SessionOptions()",
        *([provider[facts.provider]] if facts.provider in provider else []),
        f"val bytes = assets.open({json.dumps(facts.file)}).readBytes()",
        "val session = environment.createSession(bytes, options) // keep it: loading takes longer than a run",
    ]
    feeds = []
    if facts.image is not None:
        lines += _image(facts.image)
        feeds.append(f"{json.dumps(facts.image.input.name)} to tensor")
    feeds += [f"{json.dumps(spec.name)} to {_zeros(spec)}" for spec in facts.others]
    lines += [f"val outputs = session.run(mapOf({', '.join(feeds)}))", *_result(facts)]
    kind = "Int" if facts.result in {"class", "scores"} else "OrtSession.Result"
    return "\n".join(
        [
            *(f"import {each}" for each in sorted(imports)),
            "",
            f"fun run({given}): {kind} {{",
            *(f"    {line}" for line in lines),
            "}",
            "",
        ]
    )


def _image(image: ImageFacts) -> list[str]:
    any_size = image.placing == "none"
    height, width = ("height", "width") if any_size else (image.height, image.width)
    count = f"{height} * {width}" if any_size else image.height * image.width
    elements = f"{image.channels} * {count}" if any_size else image.channels * image.height * image.width
    place = f"at * {image.channels} + c" if image.input.channels_last else f"c * {count} + at"
    shift = "8 * c" if image.bgr else "16 - 8 * c"
    pixel = f"(argb[at] shr ({shift}) and 255)"
    if image.channels == 1:
        red, green, blue = (f"(argb[at] shr {bits} and 255)" for bits in (16, 8, 0))
        pixel = f"Math.round(0.299f * {red} + 0.587f * {green} + 0.114f * {blue})"
    sizes = ["1", str(image.channels), str(height), str(width)]
    sizes = ["1", *sizes[2:], sizes[1]] if image.input.channels_last else sizes
    shape = f"longArrayOf({', '.join(f'{size}.toLong()' if size.isalpha() else size for size in sizes)})"
    where = {"stretch": "Rect(0, 0, dw, dh)", "centre": "Rect(-left, -top, dw - left, dh - top)"}.get(
        image.placing, "Rect(left, top, left + dw, top + dh)"
    )
    placed = [
        *placing(image, _SPELLED),
        f"val placed = Bitmap.createBitmap({image.width}, {image.height}, Bitmap.Config.ARGB_8888)",
        f"placed.eraseColor(Color.rgb({image.pad}, {image.pad}, {image.pad}))",
        f"Canvas(placed).drawBitmap(image, null, {where}, Paint(Paint.FILTER_BITMAP_FLAG))",
    ]
    if any_size:
        placed = ["val height = image.height", "val width = image.width // the file takes any size"]
    lines = [
        *placed,
        f"val argb = IntArray({count})",
        f"{'image' if any_size else 'placed'}.getPixels(argb, 0, {width}, 0, 0, {width}, {height})",
    ]
    fill = f"for (at in 0 until {count}) for (c in 0 until {image.channels}) values.put({place}, "
    if image.pixels:
        return [
            *lines,
            f"val values = ByteBuffer.allocateDirect({elements}).order(ByteOrder.nativeOrder())",
            f"{fill}{pixel}.toByte())",
            f"val tensor = OnnxTensor.createTensor(environment, values, {shape}, OnnxJavaType.UINT8)",
        ]
    value = scaled(image, pixel, "c", "mean", "std")
    value = f"{pixel}.toFloat()" if value == pixel else value
    return [
        *lines,
        *(f"val {name} = floatArrayOf({_floats(numbers)})" for name, numbers in image.scaling.items()),
        f"val values = FloatBuffer.allocate({elements})",
        f"{fill}{value})",
        f"val tensor = OnnxTensor.createTensor(environment, values, {shape})",
    ]


def _floats(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{float(number)!r}f" for number in numbers)


def _zeros(spec: InputSpec) -> str:
    shape = [size or 1 for size in spec.shape]
    count = " * ".join(map(str, shape)) or "1"
    sizes = f"longArrayOf({', '.join(map(str, shape))})"
    buffer = _BUFFERS.get(str(spec.dtype))
    if buffer is None:
        return f"OnnxTensor.createTensor(environment, ByteBuffer.allocateDirect({count}), {sizes}, {_byte_type(spec)})"
    return f"OnnxTensor.createTensor(environment, {buffer}.allocate({count}), {sizes})"


def _byte_type(spec: InputSpec) -> str:
    return {"uint8": "OnnxJavaType.UINT8", "bool": "OnnxJavaType.BOOL"}.get(str(spec.dtype), "OnnxJavaType.INT8")


def _result(facts: Facts) -> list[str]:
    output = f"outputs.get({json.dumps(facts.output)}).get().value"
    if facts.result == "class":
        return [f"return ({output} as LongArray)[0].toInt() // number of the class"]
    if facts.result == "scores":
        return [
            f"val scores = ({output} as Array<FloatArray>)[0]",
            "return scores.indices.maxBy { scores[it] } // number of the class",
        ]
    return ["return outputs"]
