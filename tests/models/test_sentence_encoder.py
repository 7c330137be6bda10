"""The sentence encoder: what is masked changes nothing, and embeddings have length 1."""

import torch

from models.sentence_encoder import SentenceEncoder


def test_masked_tokens_change_nothing() -> None:
    torch.manual_seed(0)
    encoder = SentenceEncoder(words=40, width=24, depth=2, heads=3, positions=16).eval()
    tokens = torch.randint(0, 40, (3, 6))
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        expected = encoder(tokens, mask)
        padded = torch.cat((tokens, torch.full((3, 4), 7)), 1)
        found = encoder(padded, torch.cat((mask, torch.zeros(3, 4, dtype=mask.dtype)), 1))
        unmasked = encoder(padded, torch.ones_like(padded))
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(unmasked, expected, atol=1e-3)
    assert torch.allclose(expected.norm(dim=1), torch.ones(3))
