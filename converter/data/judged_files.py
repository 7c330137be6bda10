"""Files as they are judged: all of them take one image and give scores.

A file with its preprocessing inside takes pixels. A model of floats beside it gets the same preprocessing, in float. A
file that gives the number of the best class gives its scores instead, and one that takes images of any size takes those
of its own size.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from converter.data.any_size import has_any_size, without_any_size
from converter.data.embedding import embedded_preprocess, exact_front, store_embedded
from converter.model_io.load import read_onnx, read_whole_onnx
from converter.model_io.open import ModelFile
from converter.model_io.write import write_onnx
from converter.qdq.class_index import has_class_index, with_scores
from passes.errors import UsageError

__all__ = ["judged_files"]


def judged_files(files: Sequence[ModelFile], folder: Path) -> list[ModelFile]:
    """Return the files, with copies in place of those that have another input or output than it takes to judge them.

    Args:
        files: Model files.
        folder: Folder for the copies.

    Raises:
        UsageError: A model beside a file with its preprocessing inside has no image input.
        ModelError: A file cannot be read.
    """
    read = [read_onnx(file.path) for file in files]
    inside = [embedded_preprocess(model) for model in read]
    first = next((each for each in inside if each is not None), None)
    result = []
    for index, (file, model, own) in enumerate(zip(files, read, inside, strict=True)):
        indexed = has_class_index({entry.key: entry.value for entry in model.metadata_props})
        pixels, any_size = first is not None and own is None, has_any_size(model)
        if not indexed and not pixels and not any_size:
            result.append(file)
            continue
        copy = read_whole_onnx(file.path)
        if indexed:
            copy = with_scores(copy)
        if any_size:
            copy = without_any_size(copy)
        if pixels and first is not None:
            try:
                copy = exact_front(copy, first)
            except UsageError as error:
                raise UsageError(
                    f"{file.name}: does not take the images of {files[inside.index(first)].name}, which has its "
                    "preprocessing inside; give files of one network"
                ) from error
            store_embedded(copy, first)
        path = folder / f"judged_{index}.onnx"
        write_onnx(copy, path)
        result.append(dataclasses.replace(file, path=path, given=file.path))
    return result
