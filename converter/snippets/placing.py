"""Where an image goes, for languages whose images are drawn: a rectangle of it, onto a rectangle of the input."""

from collections.abc import Mapping

from converter.snippets.facts import ImageFacts

__all__ = ["rectangles", "scaled"]


def rectangles(image: ImageFacts, spelled: Mapping[str, str]) -> list[str]:
    """Return lines that compute sx, sy, sw, sh (of the image) and dx, dy, dw, dh (of the input), in whole pixels.

    Args:
        image: The image.
        spelled: ``int``: how a number is declared, with {name} and {value}; ``round``, ``min``, ``max``: calls, with
            {x} or {a} and {b}; ``float``: a whole number {x} as a factor of a float; ``w``, ``h``: size of the image.
    """
    width, height = spelled["w"], spelled["h"]

    def lines(values: Mapping[str, str]) -> list[str]:
        return [spelled["int"].format(name=name, value=value) for name, value in values.items()]

    whole = {"sx": "0", "sy": "0", "sw": width, "sh": height}
    target = {"dx": "0", "dy": "0", "dw": str(image.width), "dh": str(image.height)}
    if image.placing == "stretch":
        return lines(whole | target)
    if image.placing == "centre":
        side = spelled["round"].format(x=f"{float(f'{image.centre:.6g}')} * {spelled['min'].format(a=width, b=height)}")
        return lines({"side": side, "sx": f"({width} - side) / 2", "sy": f"({height} - side) / 2"}) + lines(
            {"sw": "side", "sh": "side"} | target
        )
    longer = spelled["max"].format(a=width, b=height)
    fitted = {
        name: spelled["round"].format(x=f"{side}.0 * {spelled['float'].format(x=size)} / {longer}")
        for name, side, size in (("dw", image.width, width), ("dh", image.height, height))
    }
    return lines(whole | fitted | {"dx": f"({image.width} - dw) / 2", "dy": f"({image.height} - dh) / 2"})


def scaled(image: ImageFacts, pixel: str, channel: str, mean: str, std: str) -> str:
    """Return the expression of the value of a pixel."""
    if image.pixels:
        return pixel
    value = pixel if image.divisor == 1 else f"{pixel} / {image.divisor}.0f"
    if image.preprocess.mean is not None:
        value = f"({value} - {mean}[{channel}])"
    return value if image.preprocess.std is None else f"{value} / {std}[{channel}]"
