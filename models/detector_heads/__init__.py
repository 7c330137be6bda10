"""Heads of detectors as exporters write them: small backbones, real decoding of boxes and real selection."""
