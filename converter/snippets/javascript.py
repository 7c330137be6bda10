"""A page's script in JavaScript, with onnxruntime-web and a canvas."""

import json

from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.javascript_tensors import feeds, result, sizes, tensor

__all__ = ["javascript"]

_DECODING = '{ colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "none" }'


def javascript(facts: Facts) -> str:
    """Return the script. It is a module, for a page or for a bundler."""
    lines = [
        'import * as ort from "onnxruntime-web";',
        "",
        'const options = { executionProviders: ["wasm"] };',
        f"const session = await ort.InferenceSession.create({json.dumps(facts.file)}, options);",
        *([] if facts.image is None else ["", *_image(facts.image)]),
        "",
        f"const outputs = await session.run({feeds(facts)});",
        *result(facts),
    ]
    return "\n".join([*lines, ""])


def _image(image: ImageFacts) -> list[str]:
    return [
        'const blob = await (await fetch("image.jpg")).blob();',
        f"const decoding = {_DECODING};",
        "const image = await createImageBitmap(blob, decoding);",
        *sizes(image),
        'const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });',
        *_drawn(image),
        "const rgba = context.getImageData(0, 0, width, height).data;",
        *tensor(image, "rgba", 4),
    ]


def _drawn(image: ImageFacts) -> list[str]:
    if image.placing == "none":
        return ["context.drawImage(image, 0, 0);"]
    where = {"stretch": "0, 0", "centre": "-left, -top", "letterbox": "left, top"}[image.placing]
    return [
        f'context.fillStyle = "rgb({image.pad} {image.pad} {image.pad})";',
        "context.fillRect(0, 0, width, height);",
        *_smoothing(image),
        f"context.drawImage(image, {where}, dw, dh);",
    ]


def _smoothing(image: ImageFacts) -> list[str]:
    """The canvas's filter that is nearest to the file's. Where it enlarges, "medium" is bilinear and "high" cubic."""
    name = image.preprocess.interpolation or "bilinear"
    if name == "nearest":
        return ["context.imageSmoothingEnabled = false;"]
    return [f'context.imageSmoothingQuality = "{"medium" if name == "bilinear" else "high"}";']
