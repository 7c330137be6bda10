"""Transformers with weights that somebody trained: a sentence encoder, and a ViT on road signs."""
