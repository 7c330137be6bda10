"""Settings of every test."""

import os

import pytest
from hypothesis import settings

# Quality must not depend on the processor that runs the tests: x86 without VNNI saturates 8-bit products. Commands that
# tests start in processes of their own inherit this.
os.environ["CONVERT_ONNX_EXACT_KERNELS"] = "1"


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers stay packed, so that a test of packed codes needs no large model."""
    monkeypatch.setattr("converter.qdq.weights._SMALL", 0)


# A property holds or not, however long a loaded machine takes for one example.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")
