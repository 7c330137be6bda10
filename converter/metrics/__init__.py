"""What a model is judged by: one number over labelled samples."""
