"""Vision transformers from the `transformers` library: DINOv3, DINOv2 and V-JEPA 2."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pointworld.encoders.protocol import check_images, imagenet_normalize
from pointworld.errors import InputError
from pointworld.products import convert_linear_layers


@dataclass(frozen=True)
class Family:
    """How one family of models is used.

    model_types: `model_type` in config.json -> class in `transformers`.
    video: the model takes clips; an image becomes a clip of one tubelet.
    """

    label: str
    model_types: dict[str, str]
    video: bool = False


FAMILIES: dict[str, Family] = {
    "dinov3": Family("DINOv3", {"dinov3_vit": "DINOv3ViTModel"}),
    "dinov2": Family(
        "DINOv2",
        {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"},
    ),
    "vjepa2": Family("V-JEPA 2", {"vjepa2": "VJEPA2Model"}, video=True),
}


def default_layers(depth: int) -> tuple[int, ...]:
    """The four blocks (0-based) whose outputs are used in a network of `depth` blocks.

    24 blocks: 4, 11, 17, 23, as in the PointWorld release (its ViT-L); otherwise the ends of the four quarters:
    12 blocks give 2, 5, 8, 11. Networks of fewer than four blocks give every block.
    """
    if depth == 24:
        return (4, 11, 17, 23)
    if depth < 4:
        return tuple(range(depth))
    return tuple((quarter + 1) * depth // 4 - 1 for quarter in range(4))


class ViTEncoder:
    """Patch features of several blocks of a frozen transformer, concatenated over channels.

    Each block's output goes through the model's final LayerNorm; class and register tokens are dropped. Images are
    normalised with ImageNet's statistics and not resized. An image that a video model sees becomes a clip that
    repeats it for one tubelet (two frames).

    Args:
        model: a `DINOv3ViTModel`, `Dinov2Model`, `Dinov2WithRegistersModel` or `VJEPA2Model`; frozen in place.
        name: what `load_encoder` was given; stored with checkpoints.
        layers: blocks to use (0-based, ascending), or None for `default_layers`.

    Raises:
        InputError: a layer does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        layers: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        config: Any = model.config
        depth = int(config.num_hidden_layers)
        chosen = default_layers(depth) if layers is None else tuple(int(i) for i in layers)
        if (
            not chosen
            or list(chosen) != sorted(set(chosen))
            or chosen[0] < 0
            or chosen[-1] >= depth
        ):
            raise InputError(
                f"encoder '{name}' has blocks 0..{depth - 1}; layers {list(chosen)} must be ascending, without "
                f"repeats and inside. The default is {list(default_layers(depth))}."
            )
        self.name = name
        self.layers = chosen
        self.stride = _square_patch(config.patch_size, name)
        self.channels = int(config.hidden_size) * len(chosen)
        self._video = config.model_type in FAMILIES["vjepa2"].model_types
        self._prefix = 0 if self._video else 1 + int(getattr(config, "num_register_tokens", 0) or 0)
        self._device = torch.device(device)
        self._model = model.eval().requires_grad_(False).to(device)
        convert_linear_layers(self._model)
        self._blocks = _find_blocks(self._model, depth)
        self._norm: nn.Module = _final_norm(self._model)
        # Hooks and grid sizes belong to the network: of two threads one would catch the other's states.
        self._lock = threading.Lock()

    @property
    def model(self) -> nn.Module:
        """The frozen network."""
        return self._model

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images (views, 3, h, w) in 0-1 to (views, channels, h // stride, w // stride)."""
        check_images(images, self.stride, f"{self.name} encoder")
        rows, columns = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        pixels = imagenet_normalize(images.to(self._device, torch.float32))
        pixels = pixels[..., : rows * self.stride, : columns * self.stride]
        with self._lock:
            states = (
                self._video_states(pixels, rows, columns)
                if self._video
                else self._image_states(pixels)
            )
        maps = [
            self._norm(state)[:, self._prefix :]
            .transpose(1, 2)
            .reshape(len(images), -1, rows, columns)
            for state in states
        ]
        return torch.cat(maps, 1).to(images.device, torch.float32)

    def _image_states(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Outputs of the chosen blocks, (views, tokens, hidden) each, prefix tokens included."""
        caught: list[torch.Tensor] = []

        def catch(_module: nn.Module, _args: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)

        handles = [self._blocks[i].register_forward_hook(catch) for i in self.layers]
        try:
            self._model(pixels)
        finally:
            for handle in handles:
                handle.remove()
        return caught

    def _video_states(self, pixels: torch.Tensor, rows: int, columns: int) -> list[torch.Tensor]:
        """The same for V-JEPA 2, with the positions of a grid that need not be square.

        The library derives a token's row and column from its index with the square grid of the training crop, which
        scrambles positions for any other width. Here every token carries the index that its true row and column have
        in a square grid large enough for both, so the rotary angles are those of the true position.
        """
        encoder: Any = self._model.encoder
        tubelet = int(encoder.config.tubelet_size)
        hidden = encoder.embeddings(pixels[:, None].expand(-1, tubelet, -1, -1, -1))
        side = max(rows, columns)
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        ids = (row * side + column).flatten().to(self._device).expand(len(pixels), -1)
        states = []
        for index, block in enumerate(self._blocks):
            attention: Any = block.attention
            attention.grid_size = side
            hidden = block(hidden, position_mask=ids)[0]
            if index in self.layers:
                states.append(hidden)
        return states


def _square_patch(patch_size: Any, name: str) -> int:
    sizes = (
        {int(s) for s in patch_size} if isinstance(patch_size, (list, tuple)) else {int(patch_size)}
    )
    if len(sizes) != 1:
        raise InputError(
            f"encoder '{name}' has patches of {patch_size} pixels; only square patches are supported"
        )
    return sizes.pop()


def _find_blocks(model: nn.Module, depth: int) -> nn.ModuleList:
    """The list of transformer blocks, wherever this version of the library keeps it."""
    if hasattr(model, "encoder") and hasattr(model.encoder, "layer"):
        layer: Any = model.encoder.layer
        return layer
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise InputError(
            f"{type(model).__name__}: cannot find its {depth} blocks in this version of transformers"
        )
    return lists[0]


def _final_norm(model: nn.Module) -> nn.Module:
    for owner in (model, getattr(model, "encoder", None)):
        for attribute in ("norm", "layernorm"):
            norm = getattr(owner, attribute, None)
            if isinstance(norm, nn.LayerNorm):
                return norm
    raise InputError(
        f"{type(model).__name__}: cannot find its final LayerNorm in this version of transformers"
    )
