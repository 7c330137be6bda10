"""A program in Rust, with the crates ort, ndarray and image."""

import json

from converter.data.inputs import InputSpec
from converter.snippets.facts import Facts, ImageFacts
from converter.snippets.placing import placing, scaled

__all__ = ["rust"]

_TYPES = {
    "float32": "f32",
    "float64": "f64",
    "uint8": "u8",
    "int8": "i8",
    "int32": "i32",
    "int64": "i64",
    "bool": "bool",
}
_SPELLED = {
    "int": "let {name} = {value};",
    "round": "({x}).round() as u32",
    "floor": "{x}",
    "half": "(f64::from({x}) / 2.0).round_ties_even() as u32",
    "float": "{x} as f64",
    "min": "width.min(height)",
    "max": "width.max(height) as f64",
    "w": "width",
    "h": "height",
}


def rust(facts: Facts) -> str:
    """Return the program."""
    uses = ["use ndarray::ArrayD;", "use ort::{inputs, session::Session, value::Tensor};"]
    provider = {
        "CUDAExecutionProvider": "CUDA",
        "TensorrtExecutionProvider": "TensorRT",
        "OpenVINOExecutionProvider": "OpenVINO",
        "QNNExecutionProvider": "QNN",
        "NnapiExecutionProvider": "NNAPI",
    }.get("" if facts.options else facts.provider)
    chosen = ""
    if provider:
        uses.append("use ort::ep;")
        chosen = f".with_execution_providers([ep::{provider}::default().build()])?"
    lines = [f"let mut session = Session::builder()?{chosen}.commit_from_file({json.dumps(facts.file)})?;"]
    feeds = []
    if facts.image is not None:
        if facts.image.placing == "none":
            lines += _any_size(facts.image)
        else:
            uses.append("use image::{imageops, imageops::FilterType};")
            lines += _image(facts.image)
        feeds.append(f"{json.dumps(facts.image.input.name)} => Tensor::from_array(tensor)?")
    feeds += [f"{json.dumps(spec.name)} => Tensor::from_array({_zeros(spec)})?" for spec in facts.others]
    lines += [f"let outputs = session.run(inputs![{', '.join(feeds)}])?;", *_result(facts), "Ok(())"]
    return "\n".join(
        [
            *uses,
            "",
            "fn main() -> Result<(), Box<dyn std::error::Error>> {",
            *(f"    {line}" for line in lines),
            "}",
            "",
        ]
    )


def _any_size(image: ImageFacts) -> list[str]:
    """Lines that make ``tensor`` of all pixels. Files that take any size take colours as uint8."""
    planes = "let tensor = tensor.permuted_axes(vec![0, 3, 1, 2]).as_standard_layout().into_owned();"
    swapped = ["for pixel in image.pixels_mut() {", "    pixel.0.reverse(); // BGR", "}"]
    return [
        f'let {"mut " if image.bgr else ""}image = image::open("image.jpg")?.to_rgb8();',
        *(swapped if image.bgr else []),
        "let (width, height) = image.dimensions(); // the file takes any size",
        "let shape = vec![1, height as usize, width as usize, 3];",
        "let tensor = ArrayD::<u8>::from_shape_vec(shape, image.into_raw())?;",
        *([] if image.input.channels_last else [planes]),
    ]


def _image(image: ImageFacts) -> list[str]:
    grey, kind = image.channels == 1, _TYPES.get(str(image.input.dtype), "f32")
    form, buffer = ("to_luma8", "GrayImage") if grey else ("to_rgb8", "RgbImage")
    colour = ("Luma" if grey else "Rgb") + f"([{', '.join([str(image.pad)] * image.channels)}])"
    index = "[[0, y, x, c]]" if image.input.channels_last else "[[0, c, y, x]]"
    source = "2 - c" if image.bgr else "c"
    where = {"stretch": "0, 0", "centre": "-(left as i64), -(top as i64)"}.get(image.placing, "left as i64, top as i64")
    pixel = f"placed.get_pixel(x as u32, y as u32)[{source}]"
    value = pixel if image.pixels else scaled(image, f"{pixel} as f32", "c", "mean", "std").replace(".0f", ".0")
    lines = [
        f'let image = image::open("image.jpg")?.{form}();',
        "let (width, height) = image.dimensions();",
        *placing(image, _SPELLED),
        "let part = imageops::resize(&image, dw, dh, FilterType::Triangle);",
        f"let mut placed = image::{buffer}::from_pixel({image.width}, {image.height}, image::{colour});",
        f"imageops::overlay(&mut placed, &part, {where});",
    ]
    lines += [f"let {name} = {list(numbers)};" for name, numbers in image.scaling.items()]
    return [
        *lines,
        f"let mut tensor = ArrayD::<{kind}>::zeros(vec!{list(image.shape)});",
        f"for y in 0..{image.height} {{",
        f"    for x in 0..{image.width} {{",
        f"        for c in 0..{image.channels} {{",
        f"            tensor{index} = {value};",
        "        }",
        "    }",
        "}",
    ]


def _zeros(spec: InputSpec) -> str:
    return f"ArrayD::<{_TYPES.get(str(spec.dtype), 'f32')}>::zeros(vec!{[size or 1 for size in spec.shape]})"


def _result(facts: Facts) -> list[str]:
    output = f"outputs[{json.dumps(facts.output)}]"
    if facts.result == "class":
        return [f'println!("{{}}", {output}.try_extract_array::<i64>()?[[0]]); // number of the class']
    if facts.result == "scores":
        return [
            f"let scores = {output}.try_extract_array::<f32>()?;",
            "let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(class, _)| class);",
            'println!("{best:?}"); // number of the class',
        ]
    return [f'println!("{{:?}}", {output}.shape());']
