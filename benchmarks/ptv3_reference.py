"""Runs the public PointWorld network on a CPU beside ours, for comparison only.

Nothing of it is included here: a checkout of github.com/NVlabs/PointWorld named by POINTWORLD_REFERENCE is
imported as it is. What it needs and a CPU machine lacks is replaced by small stand-ins: spconv's submanifold
convolution (gather, matrix product and index_add per tap), flash attention (scaled_dot_product_attention over
equal-length segments, float32), torch_scatter.segment_csr, timm's DropPath (never active at evaluation), addict.
"""

from __future__ import annotations

import ast
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pointworld.ptv3.neighbors import CENTER, released_voxel_table


class _AttributeDict(dict):  # type: ignore[type-arg]
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class _SparseTensor:
    def __init__(
        self,
        features: torch.Tensor,
        indices: torch.Tensor,
        spatial_shape: list[int],
        batch_size: int,
        tables: dict[str, Any] | None = None,
    ) -> None:
        self.features, self.indices = features, indices
        self.spatial_shape, self.batch_size = spatial_shape, batch_size
        self.tables = {} if tables is None else tables

    def replace_feature(self, features: torch.Tensor) -> _SparseTensor:
        return _SparseTensor(
            features, self.indices, self.spatial_shape, self.batch_size, self.tables
        )


class _Conv(nn.Module):
    def __init__(
        self,
        inside: int,
        outside: int,
        kernel_size: int,
        bias: bool = True,
        indice_key: str | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(outside, kernel_size, kernel_size, kernel_size, inside)
        )
        self.bias = nn.Parameter(torch.zeros(outside))
        self.key = indice_key or "own"

    def forward(self, tensor: _SparseTensor) -> _SparseTensor:
        if self.key not in tensor.tables:
            cells = tensor.indices.long()
            tensor.tables[self.key] = released_voxel_table(cells[:, 1:], cells[:, 0], "gpu_last")
        table = tensor.tables[self.key]
        taps = self.weight.flatten(1, 3)
        out = torch.addmm(self.bias, tensor.features, taps[:, CENTER].t())
        for tap, begin, end in table.taps:
            rows = tensor.features.index_select(0, table.source[begin:end])
            out.index_add_(0, table.target[begin:end], rows @ taps[:, tap].t())
        return tensor.replace_feature(out)


def _segment_csr(values: torch.Tensor, pointer: torch.Tensor, reduce: str) -> torch.Tensor:
    return torch.segment_reduce(values, reduce, offsets=pointer, axis=0)


def _flash(
    qkv: torch.Tensor, starts: torch.Tensor, max_seqlen: int, dropout_p: float, softmax_scale: float
) -> torch.Tensor:
    bounds = starts.tolist()
    lengths = [end - begin for begin, end in pairwise(bounds)]
    out = torch.empty_like(qkv[:, 0])
    for length in set(lengths):
        rows = [
            torch.arange(bounds[i], bounds[i + 1]) for i, n in enumerate(lengths) if n == length
        ]
        index = torch.cat(rows)
        q, k, v = qkv[index].view(len(rows), length, *qkv.shape[1:]).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v, scale=softmax_scale)
        out[index] = attended.transpose(1, 2).reshape(len(index), *qkv.shape[2:])
    return out


def _module(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def load_reference(checkout: Path, size: str, channels: int) -> nn.Module:
    """The reference's DynamicsPredictor with unset weights; same keys and inputs as ours."""
    spconv = types.SimpleNamespace(is_spconv_module=lambda module: isinstance(module, _Conv))
    _module("spconv")
    _module("spconv.pytorch", SparseConvTensor=_SparseTensor, SubMConv3d=_Conv, modules=spconv)
    sys.modules["spconv"].pytorch = sys.modules["spconv.pytorch"]  # type: ignore[attr-defined]
    _module("flash_attn")
    _module("flash_attn.flash_attn_interface", flash_attn_varlen_qkvpacked_func=_flash)
    _module("torch_scatter", segment_csr=_segment_csr)
    _module("timm")
    _module("timm.layers", DropPath=lambda rate: nn.Identity())
    _module("addict", Dict=_AttributeDict)
    sys.path.insert(0, str(checkout))
    import ptv3.ptv3 as network  # type: ignore[import-not-found]

    network.prepare_flash_attn_dtype = lambda tensor: tensor
    path = checkout / "pointworld" / "base.py"
    tree = ast.parse(
        path.read_text(encoding="utf-8")
    )  # its package has our name and needs much more: take two parts
    wanted = {"DynamicsPredictor", "build_ptv3", "_require_list"}
    parts = [
        node
        for node in tree.body
        if isinstance(node, ast.Import | ast.FunctionDef | ast.ClassDef)
        and (
            isinstance(node, ast.Import) or node.name in wanted or node.name.startswith("_resolve")
        )
    ]
    sizes = yaml.safe_load((checkout / "ptv3" / "ptv3_arch.yaml").read_text(encoding="utf-8"))[
        "sizes"
    ]
    scope = {
        "PointTransformerV3": network.PointTransformerV3,
        "MLP": network.MLP,
        "PTV3_DROP_PATH": 0.3,
        "_load_ptv3_blueprint": lambda: sizes,
    }
    exec(compile(ast.Module(parts, []), str(path), "exec"), scope)
    arguments = types.SimpleNamespace(
        ptv3_size=size, ptv3_patch_size=256, dynamics_head_init_scale=1.0, grid_size=0.015
    )
    built: nn.Module = scope["DynamicsPredictor"](arguments, channels, 11)  # type: ignore[operator]
    return built.eval()
