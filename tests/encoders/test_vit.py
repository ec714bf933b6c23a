"""Transformer encoders from random weights saved to disk and loaded back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from pointworld.encoders import ImageEncoder, ViTEncoder, default_layers, load_encoder
from pointworld.encoders.protocol import imagenet_normalize
from pointworld.errors import InputError
from pointworld.products import Linear

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}


def build(kind: str) -> Any:
    import transformers as t

    torch.manual_seed(11)
    if kind == "dinov3":
        config = t.DINOv3ViTConfig(**SMALL, intermediate_size=48, num_register_tokens=4)
        return t.DINOv3ViTModel(config)
    if kind == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(**SMALL, image_size=56))
    if kind == "dinov2_with_registers":
        config = t.Dinov2WithRegistersConfig(
            **SMALL, image_size=56, patch_size=14, num_register_tokens=4
        )
        return t.Dinov2WithRegistersModel(config)
    config = t.VJEPA2Config(
        **SMALL,
        crop_size=64,
        frames_per_clip=4,
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )
    return t.VJEPA2Model(config)


@pytest.mark.parametrize("kind", ["dinov3", "dinov2", "dinov2_with_registers"])
def test_image_models(kind: str, tmp_path: Path, generator: torch.Generator) -> None:
    """Blocks' outputs through the final norm, prefix tokens dropped, in the order of the grid."""
    model = build(kind).eval()
    model.save_pretrained(tmp_path)
    spec = f"{kind.split('_')[0]}:{tmp_path}"
    encoder = load_encoder(spec, layers=(1, 4))
    assert isinstance(encoder, ImageEncoder)
    assert (encoder.name, encoder.layers, encoder.channels) == (spec, (1, 4), 48)
    patch = encoder.stride
    assert patch == (16 if kind == "dinov3" else 14)
    images = torch.rand(2, 3, 3 * patch + 5, 4 * patch + 1, generator=generator)
    got = encoder.encode(images)
    assert got.shape == (2, 48, 3, 4)
    assert not got.requires_grad
    norm = model.norm if kind == "dinov3" else model.layernorm
    pixels = imagenet_normalize(images)[..., : 3 * patch, : 4 * patch]
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
        last = model(pixels).last_hidden_state
    prefix = 1 if kind == "dinov2" else 5
    want = torch.cat([norm(states[i + 1])[:, prefix:] for i in (1, 4)], -1)
    assert torch.allclose(got.flatten(2).transpose(1, 2), want, atol=1e-5)
    assert torch.allclose(got[:, 24:].flatten(2).transpose(1, 2), last[:, prefix:], atol=1e-5)


def test_its_layers_take_the_faster_products(tmp_path: Path) -> None:
    model = build("dinov3")
    kinds = {type(part) for part in model.modules()}
    assert torch.nn.Linear in kinds
    model.save_pretrained(tmp_path)
    encoder = load_encoder(f"dinov3:{tmp_path}")
    assert isinstance(encoder, ViTEncoder)
    kinds = {type(part) for part in encoder.model.modules()}
    assert Linear in kinds and torch.nn.Linear not in kinds


def test_video_model_square(tmp_path: Path, generator: torch.Generator) -> None:
    """At the training crop the last block equals the library's own output for the image as a two-frame clip."""
    model = build("vjepa2").eval()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(f"vjepa2:{tmp_path}")
    images = torch.rand(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        want = model.get_vision_features(imagenet_normalize(images)[:, None].repeat(1, 2, 1, 1, 1))
    got = encoder.encode(images)
    assert got.shape == (2, 4 * 24, 4, 4)
    assert torch.allclose(got[:, -24:].flatten(2).transpose(1, 2), want, atol=1e-5)


def test_video_model_other_shapes(generator: torch.Generator) -> None:
    """Positions are those of the grid: a wide image equals the library told its width; a tall one its transpose."""
    model = build("vjepa2").eval()
    images = torch.rand(1, 3, 48, 96, generator=generator)
    wide = ViTEncoder(model, name="vjepa2:test", layers=(4,)).encode(images)
    for layer in model.encoder.layer:
        layer.attention.grid_size = 6
    with torch.no_grad():
        want = model.get_vision_features(imagenet_normalize(images)[:, None].repeat(1, 2, 1, 1, 1))
    assert torch.allclose(wide.flatten(2).transpose(1, 2), want, atol=1e-5)

    # Swapping the row and column thirds of every query and key turns the model into its own transpose.
    size = model.encoder.layer[0].attention
    d, h, w = size.d_dim, size.h_dim, size.w_dim
    order = torch.tensor(
        [*range(d), *range(d + h, d + h + w), *range(d, d + h), *range(d + h + w, 12)]
    )
    rows = torch.cat([order, 12 + order])
    with torch.no_grad():
        for layer in model.encoder.layer:
            for part in (layer.attention.query, layer.attention.key):
                part.weight.copy_(part.weight[rows])
                part.bias.copy_(part.bias[rows])
        conv = model.encoder.embeddings.patch_embeddings.proj
        conv.weight.copy_(conv.weight.transpose(-1, -2).clone())
    tall = ViTEncoder(model, name="vjepa2:test", layers=(4,)).encode(images.transpose(-1, -2))
    assert torch.allclose(tall.transpose(-1, -2), wide, atol=1e-5)


def test_released_grid(generator: torch.Generator) -> None:
    """180x320 gives 11x20 cells of 16 px: the lowest four rows of pixels are not looked at."""
    encoder = ViTEncoder(build("dinov3"), name="dinov3:test")
    images = torch.rand(1, 3, 180, 320, generator=generator)
    got = encoder.encode(images)
    assert got.shape[-2:] == (11, 20)
    images[:, :, 176:] = 0.5
    assert torch.equal(encoder.encode(images), got)


def test_one_view_equals_many(generator: torch.Generator) -> None:
    encoder = ViTEncoder(build("dinov3"), name="dinov3:test")
    images = torch.rand(3, 3, 48, 64, generator=generator)
    alone = torch.cat([encoder.encode(images[i : i + 1]) for i in range(3)])
    assert torch.allclose(encoder.encode(images), alone, atol=1e-5)


def test_threads_that_share_an_encoder_get_their_own_maps(generator: torch.Generator) -> None:
    encoder = ViTEncoder(build("dinov2"), name="dinov2:test")
    images = [torch.rand(1, 3, 56, 56 + 14 * (i % 3), generator=generator) for i in range(24)]
    alone = [encoder.encode(image) for image in images]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(encoder.encode, images))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_default_layers() -> None:
    assert default_layers(24) == (4, 11, 17, 23)
    assert default_layers(12) == (2, 5, 8, 11)
    assert default_layers(3) == (0, 1, 2)


@pytest.mark.rejects_input
@pytest.mark.parametrize("layers", [(), (4, 1), (1, 1), (-1, 2), (0, 5)])
def test_refuses_layers(layers: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"blocks 0\.\.4"):
        ViTEncoder(build("dinov3"), name="dinov3:test", layers=layers)


@pytest.mark.rejects_input
def test_refuses_images() -> None:
    encoder = ViTEncoder(build("dinov3"), name="dinov3:test")
    for images in (
        torch.zeros(3, 32, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 32),
    ):
        with pytest.raises(InputError, match="images"):
            encoder.encode(images)
