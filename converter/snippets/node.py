"""A program for Node.js, with onnxruntime-node, and sharp for the image."""

import json

from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.javascript_tensors import feeds, result, sizes, tensor

__all__ = ["node"]

_KERNELS = {"bicubic": "cubic", "lanczos": "lanczos3", "nearest": "nearest"}


def node(facts: Facts) -> str:
    """Return the program. It is a module."""
    lines = [
        'import * as ort from "onnxruntime-node";',
        *([] if facts.image is None else ['import sharp from "sharp";']),
        "",
        f"const session = await ort.InferenceSession.create({json.dumps(facts.file)});",
        *([] if facts.image is None else ["", *_image(facts.image)]),
        "",
        f"const outputs = await session.run({feeds(facts)});",
        *result(facts),
    ]
    return "\n".join([*lines, ""])


def _image(image: ImageFacts) -> list[str]:
    placed = [] if image.placing == "none" else _placed(image)
    return [
        'const file = sharp("image.jpg", { ignoreIcc: true }).removeAlpha().toColourspace("srgb");',
        "const image = await file.metadata();",
        *sizes(image),
        "const rgb = await file",
        *(f"  {line}" for line in [*placed, ".raw()", ".toBuffer();"]),
        *tensor(image, "rgb", 3),
    ]


def _placed(image: ImageFacts) -> list[str]:
    kernel = _KERNELS.get(image.preprocess.interpolation or "bilinear", "linear")
    steps = [f'.resize(dw, dh, {{ fit: "fill", kernel: "{kernel}", fastShrinkOnLoad: false }})']
    if image.placing == "centre":
        steps.append(".extract({ left, top, width, height })")
    if image.placing == "letterbox":
        steps += [
            ".extend({",
            "  left, right: width - dw - left, top, bottom: height - dh - top,",
            f"  background: {{ r: {image.pad}, g: {image.pad}, b: {image.pad} }},",
            "})",
        ]
    return steps
