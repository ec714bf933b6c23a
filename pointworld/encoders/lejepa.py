"""A small vision transformer pretrained with LeJEPA, and its frozen use as an image encoder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pointworld.encoders.protocol import check_images, imagenet_normalize
from pointworld.encoders.vit import default_layers
from pointworld.errors import CheckpointError, InputError
from pointworld.files import atomic_path, write_json
from pointworld.products import Linear

Tensor = torch.Tensor

#: Checkpoint that comes with the package.
SHIPPED = "lejepa-tiny"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT = "pointworld.lejepa"
#: Ratio of the longest to the shortest period of the position code.
POSITION_RANGE = 100.0


@dataclass(frozen=True, kw_only=True)
class ViTSpec:
    """Size of the network.

    width: channels. depth: blocks. heads: attention heads. patch: edge of a patch [px].
    window: patches that attention reaches each way when the network is used as an encoder; the crops it is trained on
        are about twice as wide.
    """

    width: int = 192
    depth: int = 5
    heads: int = 3
    patch: int = 8
    window: int = 5

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads, self.patch, self.window) < 1:
            raise InputError(f"{self}: every size must be at least 1")
        if self.width % 4 or self.width % self.heads:
            raise InputError(
                f"width {self.width} must be a multiple of 4 and of the {self.heads} heads"
            )


class _Block(nn.Module):
    """Attention and a two-layer perceptron, normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.up, self.down = Linear(width, 4 * width), Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            self.qkv(self.norm1(x))
            .view(batch, tokens, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        # Written out: for so few tokens its gradient takes a third of the fused version's time on a CPU.
        scores = (q @ k.transpose(-1, -2)) * (width // self.heads) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        mixed = scores.softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class PatchViT(nn.Module):
    """Patch tokens of an image; no class token, the image's embedding is their mean.

    Positions are a fixed sine code of row and column, counted from an origin that training draws at random, so that
    images larger than the training crops hold no unknown position.
    """

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embed = Linear(3 * spec.patch**2, spec.width)
        self.blocks = nn.ModuleList(_Block(spec.width, spec.heads) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02 if module is not self.embed else 0.05)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        images: Tensor,
        *,
        origins: Tensor | None = None,
        windowed: bool = False,
        layers: Sequence[int] | None = None,
    ) -> list[Tensor]:
        """Tokens of the chosen blocks, each through the last LayerNorm.

        Args:
            images: (batch, 3, h, w), normalised with ImageNet's statistics; h and w are multiples of the patch.
            origins: (batch, 2) row and column of the first patch in the position code; 0 when absent.
            windowed: let attention reach `spec.window` patches only.
            layers: blocks (0-based, ascending); the last one when absent.

        Returns:
            One (batch, rows * columns, width) per layer.
        """
        spec = self.spec
        rows, columns = images.shape[-2] // spec.patch, images.shape[-1] // spec.patch
        patches = F.unfold(images, spec.patch, stride=spec.patch).transpose(1, 2)
        if origins is None:
            origins = images.new_zeros(1, 2)
        x = self.embed(patches) + position_code(origins, rows, columns, spec.width)
        mask = _window_mask(rows, columns, spec.window, images.device) if windowed else None
        wanted = {spec.depth - 1} if layers is None else set(layers)
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x, mask)
            if index in wanted:
                found.append(self.norm(x))
        return found


def position_code(origins: Tensor, rows: int, columns: int, width: int) -> Tensor:
    """(batch, rows * columns, width) sines and cosines of row and column, counted from origins (batch, 2)."""
    quarter = width // 4
    steps = torch.arange(quarter, device=origins.device, dtype=torch.float32) / quarter
    rates = POSITION_RANGE**-steps
    grid = [torch.arange(n, device=origins.device, dtype=torch.float32) for n in (rows, columns)]
    parts = []
    for axis, places in enumerate(grid):
        angles = (origins[:, axis, None].float() + places)[..., None] * rates
        code = torch.cat([angles.sin(), angles.cos()], -1)
        parts.append(code[:, :, None] if axis == 0 else code[:, None])
    spread = [part.expand(-1, rows, columns, -1) for part in parts]
    return torch.cat(spread, -1).flatten(1, 2)


def _window_mask(rows: int, columns: int, reach: int, device: torch.device | str) -> Tensor | None:
    """(tokens, tokens) bool, True where two patches are at most `reach` apart each way; None where all are."""
    if max(rows, columns) <= reach + 1:
        return None
    row = torch.arange(rows, device=device).repeat_interleave(columns)
    column = torch.arange(columns, device=device).repeat(rows)
    near_row = (row[:, None] - row).abs() <= reach
    return near_row & ((column[:, None] - column).abs() <= reach)


class LeJEPAEncoder:
    """Patch features of several blocks, concatenated over channels; see `ImageEncoder`.

    Images are normalised with ImageNet's statistics and not resized; the shipped weights know 320x180 pictures.

    Args:
        network: frozen in place.
        name: what `load_encoder` was given.
        layers: blocks to use (0-based, ascending), or None for `default_layers`.

    Raises:
        InputError: a layer does not exist.
    """

    def __init__(
        self,
        network: PatchViT,
        *,
        name: str,
        layers: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        depth = network.spec.depth
        chosen = default_layers(depth) if layers is None else tuple(int(i) for i in layers)
        if not chosen or list(chosen) != sorted(set(chosen) & set(range(depth))):
            raise InputError(
                f"encoder '{name}' has blocks 0..{depth - 1}; layers {list(chosen)} must be ascending, without "
                f"repeats and inside. The default is {list(default_layers(depth))}."
            )
        self.name = name
        self.layers = chosen
        self.stride = network.spec.patch
        self.channels = network.spec.width * len(chosen)
        self._device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Encode images (views, 3, h, w) in 0-1 to (views, channels, h // stride, w // stride)."""
        check_images(images, self.stride, f"{self.name} encoder")
        rows, columns = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        pixels = imagenet_normalize(images.to(self._device, torch.float32))
        pixels = pixels[..., : rows * self.stride, : columns * self.stride]
        # One image at a time: attention over a whole image is large, and larger batches are not faster.
        maps = [
            torch.cat(self._network(one[None], windowed=True, layers=self.layers), -1)
            for one in pixels
        ]
        tokens = torch.cat(maps).transpose(1, 2)
        return tokens.reshape(len(images), -1, rows, columns).to(images.device)


def save_lejepa(network: PatchViT, folder: Path, *, training: Mapping[str, Any]) -> None:
    """Write config.json and model.safetensors (bfloat16) to `folder`; `training` says where the weights come from."""
    weights = {
        name: value.detach().cpu().to(torch.bfloat16).contiguous()
        for name, value in network.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(weights, temporary, metadata={"format": FORMAT})
    record = {
        "model_type": FORMAT,
        "spec": dataclasses.asdict(network.spec),
        "training": dict(training),
    }
    write_json(folder / CONFIG_FILE, record)


def load_lejepa(folder: Path) -> PatchViT:
    """The network of a folder of `save_lejepa` (`pointworld pretrain`), in float32.

    Raises:
        InputError: no such folder, or not of this kind.
        CheckpointError: the weights are damaged or do not fit.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} has no {CONFIG_FILE}. Expected a folder of pointworld pretrain."
        )
    try:
        record = json.loads(path.read_text())
        kind, values = record["model_type"], record["spec"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a LeJEPA network ({error})") from error
    names = {field.name for field in dataclasses.fields(ViTSpec)}
    if kind != FORMAT or not isinstance(values, dict) or set(values) != names:
        raise InputError(
            f"{path} describes '{kind}', expected {FORMAT} with {', '.join(sorted(names))}"
        )
    if not all(type(value) is int and 0 < value <= 4096 for value in values.values()):
        raise InputError(f"{path}: the sizes {values} are not whole numbers of 1 to 4096")
    network = PatchViT(ViTSpec(**values))
    try:
        weights = load_file(folder / WEIGHTS_FILE)
        network.load_state_dict({name: value.float() for name, value in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS_FILE} cannot be read or does not fit {CONFIG_FILE} ({error})"
        ) from error
    return network


def shipped_folder() -> Path:
    """Where the checkpoint that comes with the package lies."""
    return Path(str(resources.files("pointworld"))) / "checkpoints" / SHIPPED
