"""A program in Python, with Pillow. Its image is that of `converter.data.preprocess`, to the last bit."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts

__all__ = ["python"]


def python(facts: Facts) -> str:
    """Return the program."""
    modules = ["import numpy as np", "import onnxruntime as ort"]
    if facts.image is not None:
        modules.append("from PIL import Image")
    provider = json.dumps(facts.provider)
    chosen = f"({provider}, {json.dumps(facts.options)})" if facts.options else provider
    providers = [*([chosen] if facts.provider else []), '"CPUExecutionProvider"']
    lines = [
        *modules,
        "",
        f"session = ort.InferenceSession({json.dumps(facts.file)}, providers=[{', '.join(providers)}])",
        *([] if facts.image is None else ["", *_image(facts.image)]),
        "",
    ]
    feeds = [] if facts.image is None else [f"{json.dumps(facts.image.input.name)}: tensor"]
    feeds += [f"{json.dumps(spec.name)}: {_zeros(spec)}" for spec in facts.others]
    return "\n".join([*lines, f"outputs = session.run(None, {{{', '.join(feeds)}}})", *_result(facts), ""])


def _image(image: ImageFacts) -> list[str]:
    filter_name = (image.preprocess.interpolation or "bilinear").upper()
    mode = "L" if image.channels == 1 else "RGB"
    lines = [f'image = Image.open("image.jpg").convert("{mode}")', *_placed(image, filter_name, mode)]
    pixels = "np.asarray(image, np.uint8)" + ("[..., None]" if image.channels == 1 else "")
    lines.append(f"pixels = {pixels}{'[..., ::-1]  # BGR' if image.bgr else ''}")
    values = "pixels"
    if not image.pixels:
        scaled = "pixels.astype(np.float32)" + (" / np.float32(255)" if image.divisor == 255 else "")
        lines.append(f"values = {scaled}")
        for sign, numbers in zip("-/", (image.scaling.get("mean"), image.scaling.get("std")), strict=True):
            lines += [] if numbers is None else [f"values {sign}= np.array({list(numbers)}, np.float32)"]
        values = "values"
    turned = "" if image.input.channels_last else ".transpose(2, 0, 1)"
    shape = "any height and width" if image.placing == "none" else f"{list(image.shape)}"
    lines.append(f"tensor = np.ascontiguousarray({values}{turned}[None], np.{image.input.dtype})  # {shape}")
    return lines


def _placed(image: ImageFacts, filter_name: str, mode: str) -> list[str]:
    used, resampling = image.preprocess, f"Image.Resampling.{filter_name}"
    if image.placing == "none":
        return []
    if image.placing == "letterbox":
        side, colour = used.letterbox, image.pad if mode == "L" else (image.pad,) * 3
        return [
            f"ratio = {side} / max(image.size)",
            "size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))",
            f"fitted = image.resize(size, {resampling})",
            f'image = Image.new("{mode}", ({side}, {side}), {colour})',
            f"image.paste(fitted, (({side} - fitted.width) // 2, ({side} - fitted.height) // 2))",
        ]
    lines = []
    if isinstance(used.resize, int):
        lines += [
            "short, long = sorted(image.size)",
            f"long = max(1, int({used.resize} * long / short))",
            f"size = ({used.resize}, long) if image.width <= image.height else (long, {used.resize})",
            f"image = image.resize(size, {resampling})",
        ]
    elif isinstance(used.resize, tuple):
        lines.append(f"image = image.resize({used.resize[::-1]}, {resampling})")
    elif used.crop is None:
        return [f"image = image.resize({(image.width, image.height)}, {resampling})"]
    if used.crop is not None or image.placing == "centre":
        size = f"{image.width}, {image.height}"
        lines += [
            f"left, top = round((image.width - {image.width}) / 2), round((image.height - {image.height}) / 2)",
            f"image = image.crop((left, top, left + {image.width}, top + {image.height}))  # {size}",
        ]
    return lines


def _zeros(spec: InputSpec) -> str:
    shape = tuple(size or 1 for size in spec.shape)
    return f"np.zeros({shape}, np.{spec.dtype})"


def _result(facts: Facts) -> list[str]:
    if facts.result == "class":
        return ["print(int(outputs[0][0]))  # number of the class"]
    if facts.result == "scores":
        return ["print(int(outputs[0][0].argmax()))  # number of the class"]
    return ["print([output.shape for output in outputs])"]
