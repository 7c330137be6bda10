"""Sentence encoder: BERT (Devlin et al., 2018), the mean of its tokens, scaled to length 1 (Reimers & Gurevych, 2019).

Parameters have the names of Hugging Face's BertModel, so `model.safetensors` of a sentence-transformers model is its
weights file. Inputs are `input_ids` and `attention_mask`, int64 `[batch, tokens]`; the output is `[batch, width]`.
"""

import torch
from torch import Tensor, nn

__all__ = ["SentenceEncoder", "minilm"]

_EPS = 1e-12


class _Embeddings(nn.Module):
    """Sum of the embeddings of a token, its position, and segment 0, then LayerNorm."""

    position_ids: Tensor

    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPS)
        self.register_buffer("position_ids", torch.arange(positions)[None])

    def forward(self, input_ids: Tensor) -> Tensor:
        places = self.position_embeddings(self.position_ids[:, : input_ids.shape[1]])
        out: Tensor = self.LayerNorm(self.word_embeddings(input_ids) + places + self.token_type_embeddings.weight[0])
        return out


class _SelfAttention(nn.Module):
    """Softmax(Q Kᵀ / √d + mask) V for every head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = (
            layer(x).reshape(batch, tokens, self.heads, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(-2, -1) * self.size**-0.5 + mask, -1)
        out: Tensor = (weights @ value).transpose(1, 2).reshape(batch, tokens, width)
        return out


class _AddNorm(nn.Module):
    """Linear, the shortcut, then LayerNorm."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPS)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(x) + shortcut)
        return out


class _Layer(nn.Module):
    """Attention and MLP, each with a shortcut and a LayerNorm behind it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _SelfAttention(width, heads), "output": _AddNorm(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 4 * width)})
        self.output = _AddNorm(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        out: Tensor = self.output(nn.functional.gelu(self.intermediate["dense"](x)), x)
        return out


class _Layers(nn.Module):
    """The layers, under the name that they have in the weights file."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(width, heads) for _ in range(depth))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class SentenceEncoder(nn.Module):
    """Embeddings, layers, and the mean over the tokens that the mask has.

    Args:
        words: Number of words.
        width: Numbers of a token, and of an embedding of a sentence.
        depth: Number of layers.
        heads: Heads of each attention.
        positions: Largest number of tokens.
    """

    def __init__(self, words: int, width: int, depth: int, heads: int, positions: int = 512) -> None:
        super().__init__()
        self.embeddings = _Embeddings(words, positions, width)
        self.encoder = _Layers(width, depth, heads)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})  # in the weights file, but not used

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.to(torch.float32)
        added = (mask[:, None, None, :] - 1) * 1e4  # [b, 1, 1, tokens]: 0, or -10000 where there is no token
        x = self.encoder(self.embeddings(input_ids), added)
        mean = (x * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        return nn.functional.normalize(mean)


def minilm() -> SentenceEncoder:
    """all-MiniLM-L6-v2: 22.7 million parameters, of which 11.7 million are the table of words."""
    return SentenceEncoder(30522, 384, 6, 12)
