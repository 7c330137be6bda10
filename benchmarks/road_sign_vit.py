"""Train a small Vision Transformer on German road signs, for `python -m benchmarks.transformers`.

    python -m benchmarks.road_sign_vit                       writes build/road_sign_vit.npz, about 4 CPU minutes
    python -m benchmarks.road_sign_vit --projected           writes build/road_sign_vit_projected.npz
    python -m benchmarks.road_sign_vit --epochs 1            to try it

The network is a hybrid (Dosovitskiy et al., 2020, section 3.1): the first two stages of the road-sign ResNet-18 make 36
tokens of an image, and a transformer of four blocks reads them. With `--projected` a linear projection makes the tokens
of what the stages write, as in that paper. Without it, the tokens are what a ReLU writes. The stages have the weights
of the shared data and do not learn, which saves most of the time. The rest starts from random weights.

It trains on the 10,000 images of 48x48 pixels that `benchmarks.shared_data` names, on one thread, and measures on the
6,315 test images at the end. The images are turned, scaled, moved and made lighter or darker at random. They are never
mirrored, since a sign that is mirrored is another sign. The weights are not kept in the repository. A training that was
stopped goes on from its checkpoint beside the weights.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.shared_data import ROAD_SIGNS, ROOT, VIT_ROAD_SIGNS_WEIGHTS, MissingData, shared_file
from converter.model_io.factory import apply_weights, load_weights
from models.resnet import resnet18
from models.vit import VisionTransformer

__all__ = ["Schedule", "Stages", "augmented", "hybrid", "main", "top1", "train"]

_WIDTH = 128


class Stages(nn.Module):
    """The first two stages of ResNet-18: `[b, 3, 48, 48] -> [b, 36, 128]`.

    Args:
        projected: Whether a linear projection follows.
    """

    def __init__(self, projected: bool = False) -> None:
        super().__init__()
        whole = resnet18()
        self.stages = nn.Sequential(whole.conv1, whole.bn1, whole.relu, whole.maxpool, whole.layer1, whole.layer2)
        self.projection = nn.Conv2d(_WIDTH, _WIDTH, 1) if projected else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.projection(self.stages(x)).flatten(2).transpose(1, 2)
        return out


def hybrid(num_classes: int = 43) -> VisionTransformer:
    """Four blocks of 4 heads behind `Stages`: 1.5 million parameters, of which the stages have 0.7."""
    return VisionTransformer(48, 8, _WIDTH, 4, 4, num_classes, Stages())


def projected_hybrid(num_classes: int = 43) -> VisionTransformer:
    """`hybrid` with a linear projection of what the stages write. Layers start from normal weights, as timm's do."""
    network = VisionTransformer(48, 8, _WIDTH, 4, 4, num_classes, Stages(projected=True))
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    return network


@dataclass(frozen=True)
class Schedule:
    """How long and how fast the network learns.

    Attributes:
        epochs: Passes over the images.
        batch: Images of a step.
        rate: Largest learning rate of AdamW.
        warmup: Epochs in which the rate rises from 0.
        cooldown: Last epochs, in which the rate falls to 0. Between them it is constant, so a training that was stopped
            can go on for more or fewer epochs than it began with.
        decay: Weight decay.
        smoothing: Label smoothing.
        seed: Seed of the weights, the order of the images, and their augmentation.
    """

    epochs: int = 4
    batch: int = 64
    rate: float = 7e-4
    warmup: float = 0.5
    cooldown: int = 2
    decay: float = 0.05
    smoothing: float = 0.1
    seed: int = 0

    def rate_at(self, epoch: float) -> float:
        """Return the learning rate at a point of the training, in epochs."""
        return self.rate * min(1.0, epoch / self.warmup, max(0.0, self.epochs - epoch) / self.cooldown)


def images(name: str) -> tuple[Tensor, Tensor]:
    """Return the normalized images [n, 3, 48, 48] and the classes [n] of a file of the shared data."""
    with np.load(shared_file(name)) as file:
        pixels, labels = file["x"], file["y"]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (ROAD_SIGNS.preprocess.mean, ROAD_SIGNS.preprocess.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std, torch.from_numpy(labels)


def augmented(batch: Tensor, source: torch.Generator) -> Tensor:
    """Turn by up to 15 degrees, scale by 0.85 to 1.2, move by up to 8 %, and change contrast and brightness.

    Args:
        batch: Normalized images, [n, 3, h, w].
        source: Random numbers.
    """
    count = len(batch)

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=source)

    angle, scale = math.pi / 12 * drawn(-1, 1), drawn(0.85, 1.2, 2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1) * scale[:, None]  # [n, 2, 2]
    maps = torch.cat((turn, drawn(-0.16, 0.16, 2, 1)), 2)  # [n, 2, 3]
    grid = nn.functional.affine_grid(maps, list(batch.shape), align_corners=False)
    moved = nn.functional.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    return moved * drawn(0.6, 1.4, 1, 1, 1) + drawn(-0.4, 0.4, 1, 1, 1)


def top1(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest score is their class."""
    network.eval()
    with torch.no_grad():
        found = torch.cat([network(some).argmax(1) for some in torch.split(pixels, 256)])  # [n]
    return float((found == labels).float().mean())


def train(
    schedule: Schedule, pixels: Tensor, labels: Tensor, checkpoint: Path, *, projected: bool = False
) -> nn.Module:
    """Train from random weights, or from the checkpoint if there is one, which is replaced after every epoch."""
    torch.manual_seed(schedule.seed)
    network = projected_hybrid() if projected else hybrid()
    tokens = network.patch_embed
    tokens.load_state_dict(tokens.state_dict() | _pretrained())
    stages = tokens.get_submodule("stages").requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [each for each in network.parameters() if each.requires_grad], lr=0.0, weight_decay=schedule.decay
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=schedule.smoothing)
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epochs"]
    network.train()
    stages.eval()
    for epoch in range(first, schedule.epochs):
        started, total = time.perf_counter(), 0.0
        source = torch.Generator().manual_seed(1000 * schedule.seed + epoch)
        batches = torch.split(torch.randperm(len(pixels), generator=source), schedule.batch)
        for step, chosen in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate_at(epoch + step / len(batches))
            loss = loss_of(network(augmented(pixels[chosen], source)), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            total += loss.item()
        _save(checkpoint, {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1})
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{schedule.epochs}: loss {total / len(batches):.3f}, {seconds:.0f} s", flush=True)
    return network.eval()


def _pretrained() -> dict[str, Tensor]:
    """Return the weights of `Stages` among those of the road-sign ResNet-18."""
    whole = resnet18(num_classes=43)
    apply_weights(whole, load_weights(shared_file(ROAD_SIGNS.weights or "")))
    named = {"0": whole.conv1, "1": whole.bn1, "4": whole.layer1, "5": whole.layer2}
    return {
        f"stages.{place}.{name}": value for place, part in named.items() for name, value in part.state_dict().items()
    }


def _save(path: Path, content: object) -> None:
    """Write a file at once, so that a stop leaves the old one."""
    beside = path.with_suffix(".part")
    torch.save(content, beside)
    beside.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write the weights, and print the accuracy. The result is 1 if data are missing."""
    parser = argparse.ArgumentParser(prog="benchmarks.road_sign_vit", description="Train a ViT on road signs.")
    parser.add_argument("--epochs", type=int, default=Schedule.epochs, help=f"default {Schedule.epochs}")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--projected", action="store_true", help="with a linear projection behind the stages")
    parser.add_argument("-o", "--output", type=Path, help=f"default {' or '.join(VIT_ROAD_SIGNS_WEIGHTS.values())}")
    options = parser.parse_args(arguments)
    output = options.output or ROOT / VIT_ROAD_SIGNS_WEIGHTS["vit-projected" if options.projected else "vit"]
    torch.set_num_threads(1)
    try:
        training, test = images("gtsrb_train.npz"), images("gtsrb_test.npz")
    except MissingData as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    output.parent.mkdir(parents=True, exist_ok=True)
    schedule, checkpoint = Schedule(epochs=options.epochs, seed=options.seed), output.with_suffix(".checkpoint")
    network = train(schedule, *training, checkpoint, projected=options.projected)
    np.savez(output, **{name: value.numpy() for name, value in network.state_dict().items()})
    print(f"{output}: top-1 {100 * top1(network, *test):.2f} % of {len(test[1]):,} test images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
