"""The LeJEPA encoder: files, the grid it promises, and a window that makes features local."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pointworld.encoders import ImageEncoder, load_encoder
from pointworld.encoders.lejepa import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    LeJEPAEncoder,
    PatchViT,
    ViTSpec,
    load_lejepa,
    position_code,
    save_lejepa,
    shipped_folder,
)
from pointworld.errors import CheckpointError, InputError

SMALL = ViTSpec(width=16, depth=2, heads=2, window=2)


def network(seed: int = 0) -> PatchViT:
    torch.manual_seed(seed)
    return PatchViT(SMALL)


def test_file_round_trip_and_grid(tmp_path: Path, generator: torch.Generator) -> None:
    saved = network()
    save_lejepa(saved, tmp_path, training={"steps": 3})
    encoder = load_encoder(f"jepa:{tmp_path}")
    assert isinstance(encoder, ImageEncoder)
    assert (encoder.channels, encoder.stride, encoder.layers) == (32, 8, (0, 1))
    images = torch.rand(2, 3, 43, 60, generator=generator)
    features = encoder.encode(images)
    assert features.shape == (2, 32, 5, 7)
    for name, value in load_lejepa(tmp_path).state_dict().items():
        assert torch.equal(value, saved.state_dict()[name].bfloat16().float()), name
    last = load_encoder(f"jepa:{tmp_path}", layers=[1]).encode(images)
    assert torch.equal(last, features[:, 16:])


def test_cells_lie_where_the_protocol_says(generator: torch.Generator) -> None:
    """Changing pixels far from a cell changes nothing there; changing the cell's own pixels does."""
    encoder = LeJEPAEncoder(network(), name="t")
    image = torch.rand(1, 3, 128, 128, generator=generator)
    changed = image.clone()
    changed[..., :8, :8] = 0
    difference = (encoder.encode(image) - encoder.encode(changed)).abs().amax((0, 1))
    reach = SMALL.window * SMALL.depth
    assert difference[0, 0] > 1e-3
    assert difference[: reach + 1, : reach + 1].min() > 0
    assert difference[reach + 1 :].max() == 0 and difference[:, reach + 1 :].max() == 0


def test_position_code_counts_from_its_origin() -> None:
    whole = position_code(torch.zeros(1, 2), 6, 8, 16).view(6, 8, 16)
    part = position_code(torch.tensor([[2.0, 3.0]]), 2, 4, 16).view(2, 4, 16)
    assert torch.allclose(part, whole[2:4, 3:7], atol=1e-6)
    assert not torch.allclose(whole[0, 0], whole[0, 1])


def test_shipped_weights_find_the_same_place_again(rng: np.random.Generator) -> None:
    """A smooth random picture shifted by two cells: most cells find their own place among all, chance is under 2 %."""
    folder = shipped_folder()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
    encoder = load_encoder("jepa")
    assert (encoder.channels, encoder.stride) == (768, 8)
    coarse = torch.from_numpy(rng.random((1, 3, 30, 40), dtype=np.float32))
    picture = torch.nn.functional.interpolate(coarse, size=(120, 160), mode="bicubic").clamp(0, 1)
    first = encoder.encode(picture[..., :96, :128])[0][:, 4:-2, 4:-2]
    second = encoder.encode(picture[..., 16:112, 16:144])[0].flatten(1)
    first, second = (f - second.mean(1).view(-1, *[1] * (f.ndim - 1)) for f in (first, second))
    normal = torch.nn.functional.normalize
    found = (normal(first.flatten(1), dim=0).T @ normal(second, dim=0)).argmax(1)
    row, column = torch.meshgrid(torch.arange(4, 10), torch.arange(4, 14), indexing="ij")
    own = (row - 2).flatten() * 16 + (column - 2).flatten()
    assert float((found == own).float().mean()) > 0.5


@pytest.mark.rejects_input
def test_refuses_bad_files_and_layers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_encoder(f"jepa:{tmp_path}")
    save_lejepa(network(), tmp_path, training={})
    with pytest.raises(InputError, match=r"blocks 0\.\.1"):
        load_encoder(f"jepa:{tmp_path}", layers=[2])
    weights = tmp_path / WEIGHTS_FILE
    kept = weights.read_bytes()
    weights.write_bytes(kept[:200])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_encoder(f"jepa:{tmp_path}")
    weights.write_bytes(kept)
    record = json.loads((tmp_path / CONFIG_FILE).read_text())
    record["spec"]["width"] = 32
    (tmp_path / CONFIG_FILE).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="does not fit"):
        load_encoder(f"jepa:{tmp_path}")
    record["spec"]["width"] = 10**9
    (tmp_path / CONFIG_FILE).write_text(json.dumps(record))
    with pytest.raises(InputError, match="1 to 4096"):
        load_encoder(f"jepa:{tmp_path}")
    (tmp_path / CONFIG_FILE).write_text("[]")
    with pytest.raises(InputError, match="does not describe"):
        load_encoder(f"jepa:{tmp_path}")
