"""Vision Transformer (Dosovitskiy et al., 2020) with timm's parameter names.

Input `[batch, 3, image, image]`, output `[batch, num_classes]`. Without `--weights` the parameters are random.
"""

import torch
from torch import Tensor, nn

__all__ = ["Attention", "VisionTransformer", "vit_tiny"]


class Attention(nn.Module):
    """Softmax(Q Kᵀ / √d) V for every head, with explicit matrix products: `[b, tokens, width]`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]  # [b, heads, tokens, size]
        weights = torch.softmax(query @ key.transpose(-2, -1) * self.size**-0.5, -1)
        out: Tensor = self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
        return out


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """A convolution whose stride equals its kernel: `[b, 3, h, w] -> [b, tokens, width]`."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class VisionTransformer(nn.Module):
    """Patches and a class token with learned positions, blocks, LayerNorm, and a linear classifier of the token.

    Args:
        image: Side of the square images in pixels.
        patch: Side of a patch in pixels.
        width: Numbers of a token.
        depth: Number of blocks.
        heads: Heads of each attention.
        num_classes: Number of scores.
        stem: What makes `[b, tokens, width]` of images. None: one convolution of patches.
    """

    def __init__(
        self,
        image: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        num_classes: int,
        stem: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2 + 1, width))
        self.patch_embed = PatchEmbed(width, patch) if stem is None else stem
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1) + self.pos_embed
        x = self.norm(self.blocks(x))
        logits: Tensor = self.head(x[:, 0])
        return logits


def vit_tiny(num_classes: int = 1000, image: int = 224, patch: int = 16, depth: int = 12) -> VisionTransformer:
    """ViT-Ti/16 (Touvron et al., 2021): 5.7 million parameters."""
    return VisionTransformer(image, patch, 192, depth, 3, num_classes)
