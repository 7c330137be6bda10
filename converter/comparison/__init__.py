"""What `converter.compare` is made of: tensors matched, the reference cut into cells, layers tried in float, advice."""
