"""Where an image goes: the size it is resized to, and where the input is in it or it is in the input."""

from collections.abc import Mapping

from converter.snippets.facts import ImageFacts

__all__ = ["placing", "scaled"]


def placing(image: ImageFacts, spelled: Mapping[str, str]) -> list[str]:
    """Return lines that compute what `Preprocess` computes, in whole pixels.

    dw, dh: size to resize to. left, top: pixels of the resized image that are cut off ("centre"), or pixels in front of
    it ("letterbox").

    Args:
        image: The image.
        spelled: ``int``: how a number is declared, with {name} and {value}; ``round``: to the nearest whole number;
            ``floor``: of a division of whole numbers; ``half``: of a whole number, rounded to even; ``max``, ``min``:
            of {a} and {b}; ``float``: a whole number {x} as a factor of a float; ``w``, ``h``: size of the image.
    """
    width, height = spelled["w"], spelled["h"]

    def lines(values: Mapping[str, str]) -> list[str]:
        return [spelled["int"].format(name=name, value=value) for name, value in values.items()]

    if image.placing == "letterbox":
        longer = spelled["max"].format(a=width, b=height)
        fitted = {
            name: spelled["round"].format(x=f"{side}.0 * {spelled['float'].format(x=size)} / {longer}")
            for name, side, size in (("dw", image.width, width), ("dh", image.height, height))
        }
        front = {"left": f"({image.width} - dw) / 2", "top": f"({image.height} - dh) / 2"}
        return lines(fitted | {name: spelled["floor"].format(x=value) for name, value in front.items()})
    if image.placing == "stretch":
        return lines({"dw": str(image.width), "dh": str(image.height)})
    cut = {"left": f"dw - {image.width}", "top": f"dh - {image.height}"}
    return lines(_size(image, spelled) | {name: spelled["half"].format(x=value) for name, value in cut.items()})


def _size(image: ImageFacts, spelled: Mapping[str, str]) -> dict[str, str]:
    """Size of the image whose centre is taken."""
    width, height, resize = spelled["w"], spelled["h"], image.preprocess.resize
    if resize is None:
        return {"dw": width, "dh": height}
    if isinstance(resize, tuple):
        return {"dw": str(resize[1]), "dh": str(resize[0])}
    shorter = spelled["min"].format(a=width, b=height)
    return {
        name: spelled["floor"].format(x=f"{resize} * {size} / {shorter}")
        for name, size in (("dw", width), ("dh", height))
    }


def scaled(image: ImageFacts, pixel: str, channel: str, mean: str, std: str) -> str:
    """Return the expression of the value of a pixel."""
    if image.pixels:
        return pixel
    value = pixel if image.divisor == 1 else f"{pixel} / {image.divisor}.0f"
    if image.preprocess.mean is not None:
        value = f"({value} - {mean}[{channel}])"
    return value if image.preprocess.std is None else f"{value} / {std}[{channel}]"
