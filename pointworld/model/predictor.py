"""The network core: scene and robot tokens in, normalised displacement and log-variance of every scene point out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from pointworld.errors import InputError
from pointworld.geometry import SUPPORT
from pointworld.ptv3.arch import PTv3Arch
from pointworld.ptv3.backbone import MLP, Linear, PTv3, initialise
from pointworld.ptv3.levels import Pyramid, released_pyramid, stable_pyramid
from pointworld.ptv3.neighbors import DUPLICATE_RULES
from pointworld.ptv3.pointcept import build_pointcept, run_pointcept

MODES = ("stable", "released")
BACKENDS = ("native", "pointcept")
NUM_STEPS = 11
HEAD_WIDTH = 128
INITIAL_LOG_VAR = math.log(0.005**2)


@dataclass(frozen=True, eq=False)
class _Tokens:
    """Existing tokens of a batch, in the caller's order.

    slots: (tokens,) place in the padded (batch, scene points + steps * robot points) layout.
    coords: (tokens, 3) [m].
    sample: (tokens,) int64.
    rank: (tokens,) int64, 0 for scene points, 1 + step for robot points.
    """

    slots: torch.Tensor
    coords: torch.Tensor
    sample: torch.Tensor
    rank: torch.Tensor


class DynamicsPredictor(nn.Module):
    """PTv3 with FiLM skips and two heads; parameter names are those of the released checkpoints.

    Args:
        arch: the backbone.
        mode: "stable" (one fixed lattice, no dependence on other tokens, the batch or input order) or "released"
            (NVIDIA's semantics); docs/ptv3.md describes both. The parameters are the same.
        grid_size: voxel edge [m].
        num_steps: time steps of the robot flow, the present included.
        duplicates: released mode only: treatment of tokens that share a voxel, one of `DUPLICATE_RULES`.
        backend: "native", or "pointcept" to run an installed Pointcept with the same weights (released mode only;
            see docs/pointcept.md).
        together: points of one cluster also share what is known of the whole of it, just before the heads.
        guesses: motions offered to every point and step; the network also says how far to trust each.
        head_init_scale: scale of the initial weights of the last displacement layer (0 = start at no motion).
        generator: for the initial weights; torch's default generator if None.
    """

    def __init__(
        self,
        arch: PTv3Arch,
        mode: str = "stable",
        grid_size: float = 0.015,
        *,
        num_steps: int = NUM_STEPS,
        duplicates: str = "gpu_last",
        backend: str = "native",
        together: bool = False,
        guesses: int = 0,
        head_init_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise InputError(f"unknown mode '{mode}', expected one of {list(MODES)}")
        if duplicates not in DUPLICATE_RULES:
            raise InputError(
                f"unknown duplicate rule '{duplicates}', expected one of {list(DUPLICATE_RULES)}"
            )
        if backend not in BACKENDS or (backend == "pointcept" and mode != "released"):
            raise InputError(
                f"backend '{backend}' in mode '{mode}': expected one of {list(BACKENDS)}, and 'pointcept' only in "
                "released mode (it knows no other)"
            )
        if not grid_size > 0 or not 2 <= num_steps <= 255:
            raise InputError(
                f"expected grid_size > 0 and 2 to 255 steps, got grid_size {grid_size} and {num_steps} steps"
            )
        if arch.in_channels != arch.out_channels:
            raise InputError(
                f"the predictor adds the backbone's output ({arch.out_channels} channels) to its input "
                f"({arch.in_channels} channels): make dec_channels[0] equal in_channels"
            )
        self.arch, self.mode, self.grid_size = arch, mode, grid_size
        self.num_steps, self.duplicates, self.backend = num_steps, duplicates, backend
        width = arch.in_channels
        self.predictor_model = PTv3(arch) if backend == "native" else build_pointcept(arch)
        self.skip_film_gamma = nn.Parameter(torch.empty(1, 1, width))
        self.skip_film_beta = nn.Parameter(torch.empty(1, 1, width))
        self.robot_film_gamma = nn.Parameter(torch.empty(1, 1, width))
        self.robot_film_beta = nn.Parameter(torch.empty(1, 1, width))
        self.motion_channels = 3 + guesses
        self.dynamics_head = _head(width, self.motion_channels * (num_steps - 1))
        self.log_var_head = _head(width, num_steps - 1)
        self.cluster_mlp = MLP(3 * width, HEAD_WIDTH, width) if together else None
        self.reset_parameters(head_init_scale=head_init_scale, generator=generator)

    def reset_parameters(
        self, *, head_init_scale: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        """Draws initial weights as the release does (sheet: PTv3 truncated normal 0.02, log-variance ln 0.005^2)."""
        initialise(self.predictor_model, generator)
        with torch.no_grad():
            for gamma, beta in (
                (self.skip_film_gamma, self.skip_film_beta),
                (self.robot_film_gamma, self.robot_film_beta),
            ):
                gamma.fill_(1.0)
                beta.zero_()
            for head in (self.dynamics_head, self.log_var_head, self.cluster_mlp):
                if head is None:
                    continue
                for part in head.modules():
                    if isinstance(part, nn.Linear):
                        bound = 1.0 / math.sqrt(part.in_features)
                        nn.init.uniform_(part.weight, -bound, bound, generator=generator)
                        nn.init.uniform_(part.bias, -bound, bound, generator=generator)
            last = _last(self.dynamics_head)
            nn.init.kaiming_normal_(last.weight, generator=generator)
            last.weight.mul_(head_init_scale)
            last.bias.zero_()
            _last(self.log_var_head).bias.fill_(INITIAL_LOG_VAR)

    def forward(
        self,
        scene_coord0: torch.Tensor,
        scene_feat0: torch.Tensor,
        scene_exists0: torch.Tensor,
        robot_coord_seq: torch.Tensor,
        robot_feat: torch.Tensor,
        robot_exists: torch.Tensor,
        *,
        clusters: torch.Tensor | None = None,
        orders: str = "identity",
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Predicts the motion of every scene point.

        Args:
            scene_coord0: (batch, points, 3) scene positions now, in the base frame [m].
            scene_feat0: (batch, points, channels) scene features.
            scene_exists0: (batch, points) bool, False = padding.
            robot_coord_seq: (batch, steps, robot points, 3) robot positions [m].
            robot_feat: (batch, steps, robot points, channels) robot features.
            robot_exists: (batch, steps, robot points) bool, False = padding.
            clusters: (batch, points) which points hang together, SUPPORT for none; needed for `together`.
            orders: released mode only: "drawn" permutes the curves at every level as the reference always does.
            generator: CPU generator of those draws, and of drop path in training; torch's default one if None.
        Returns:
            pred: (batch, steps, points, 3 + guesses) normalised displacement from now, and the trust in each guess
                before it is made a share; zero at step 0.
            log_var: (batch, steps, points, 1); zero at step 0. Rows of padding are meaningless.
        Raises:
            InputError: shapes disagree, or positions lie outside the lattice.
        """
        self._check(
            scene_coord0, scene_feat0, scene_exists0, robot_coord_seq, robot_feat, robot_exists
        )
        batch, points, channels = scene_feat0.shape
        coords = torch.cat([scene_coord0, robot_coord_seq.flatten(1, 2)], dim=1)
        features = torch.cat([scene_feat0, robot_feat.flatten(1, 2)], dim=1)
        exists = torch.cat([scene_exists0, robot_exists.flatten(1, 2)], dim=1)
        padded = features.reshape(-1, channels)
        tokens = self._tokens(coords, exists, points)
        decoded, slots = self._decode(padded, tokens, batch, orders, generator)
        out = decoded.new_zeros(padded.shape[0], channels).index_copy(0, slots, decoded)
        out = out.view(batch, -1, channels)
        robot_max = _masked_max(out[:, points:], exists[:, points:])
        hidden = out[:, :points] + (scene_feat0 * self.skip_film_gamma + self.skip_film_beta)
        hidden = hidden + (robot_max * self.robot_film_gamma + self.robot_film_beta)
        if self.cluster_mlp is not None:
            if clusters is None:
                raise InputError(
                    "this predictor pools over clusters; expected `clusters`, got None"
                )
            whole = _over_clusters(hidden, torch.where(scene_exists0, clusters, SUPPORT))
            hidden = hidden + self.cluster_mlp(torch.cat([hidden, whole], -1))
        motion = self._steps(self.dynamics_head(hidden), self.motion_channels)
        return motion, self._steps(self.log_var_head(hidden), 1)

    def _tokens(self, coords: torch.Tensor, exists: torch.Tensor, points: int) -> _Tokens:
        slots_each = exists.shape[1]
        slots = torch.nonzero(exists.reshape(-1)).squeeze(1)
        if len(slots) == 0:
            raise InputError(
                "no token exists in the whole batch; expected scene points or robot points. "
                "Was everything cropped away, or is the mask inverted?"
            )
        per_step = max(1, (slots_each - points) // self.num_steps)
        place = slots % slots_each - points
        return _Tokens(
            slots=slots,
            coords=coords.reshape(-1, 3).index_select(0, slots),
            sample=slots // slots_each,
            rank=torch.where(place < 0, 0, 1 + place // per_step),
        )

    def _decode(
        self,
        padded: torch.Tensor,
        tokens: _Tokens,
        batch_size: int,
        orders: str,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The backbone's output (tokens, channels) and the slot of each of its rows."""
        if self.backend == "pointcept":
            features = padded.index_select(0, tokens.slots)
            decoded = run_pointcept(
                self.predictor_model,
                features,
                tokens.coords,
                tokens.sample,
                grid_size=self.grid_size,
                orders=orders,
                generator=generator,
            )
            return decoded, tokens.slots
        pyramid = self._pyramid(padded, tokens, batch_size, orders, generator)
        slots = tokens.slots if pyramid.canonical is None else tokens.slots[pyramid.canonical]
        return self.predictor_model(
            padded.index_select(0, slots), pyramid, generator=generator
        ), slots

    def _pyramid(
        self,
        padded: torch.Tensor,
        tokens: _Tokens,
        batch_size: int,
        orders: str,
        generator: torch.Generator | None,
    ) -> Pyramid:
        if self.mode == "released":
            return released_pyramid(
                tokens.coords,
                tokens.sample,
                batch_size,
                arch=self.arch,
                grid_size=self.grid_size,
                duplicates=self.duplicates,
                orders=orders,
                generator=generator,
            )
        return stable_pyramid(
            tokens.coords,
            tokens.sample,
            batch_size,
            arch=self.arch,
            grid_size=self.grid_size,
            rank=tokens.rank,
            features=padded.detach().index_select(0, tokens.slots),
        )

    def _steps(self, flat: torch.Tensor, size: int) -> torch.Tensor:
        """(batch, points, steps-1 * size) -> (batch, steps, points, size), zero at step 0."""
        batch, points, _ = flat.shape
        steps = flat.view(batch, points, self.num_steps - 1, size).transpose(1, 2)
        return torch.cat([steps.new_zeros(batch, 1, points, size), steps], dim=1)

    def _check(self, *tensors: torch.Tensor) -> None:
        scene, scene_feat, scene_exists, robot, robot_feat, robot_exists = tensors
        if scene.ndim != 3 or robot.ndim != 4:
            raise InputError(
                f"expected scene_coord0 (batch, points, 3) and robot_coord_seq (batch, steps, points, 3), "
                f"got {tuple(scene.shape)} and {tuple(robot.shape)}"
            )
        (batch, points), robot_points = scene.shape[:2], robot.shape[2]
        width = self.arch.in_channels
        expected = {
            "scene_coord0": (scene, (batch, points, 3)),
            "scene_feat0": (scene_feat, (batch, points, width)),
            "scene_exists0": (scene_exists, (batch, points)),
            "robot_coord_seq": (robot, (batch, self.num_steps, robot_points, 3)),
            "robot_feat": (robot_feat, (batch, self.num_steps, robot_points, width)),
            "robot_exists": (robot_exists, (batch, self.num_steps, robot_points)),
        }
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
        if scene_exists.dtype != torch.bool or robot_exists.dtype != torch.bool:
            raise InputError("scene_exists0 and robot_exists must be bool masks, True = exists")


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(MLP(width, HEAD_WIDTH, HEAD_WIDTH), Linear(HEAD_WIDTH, out))


def _over_clusters(hidden: torch.Tensor, clusters: torch.Tensor) -> torch.Tensor:
    """Largest and mean of each channel over a point's cluster, (batch, points, 2 channels); 0 for points of none."""
    batch, _, channels = hidden.shape
    row = (clusters - SUPPORT)[..., None].expand_as(hidden)

    def pooled(values: torch.Tensor, how: str) -> torch.Tensor:
        empty = values.new_zeros(batch, int(clusters.max()) - SUPPORT + 1, channels)
        return empty.scatter_reduce(1, row, values, how, include_self=False).gather(1, row)

    # Summed in float64, a mean does not depend on the order of the points.
    mean = pooled(hidden.double(), "mean").to(hidden.dtype)
    both = torch.cat([pooled(hidden, "amax"), mean], -1)
    return torch.where((clusters > SUPPORT)[..., None], both, 0.0)


def _last(head: nn.Sequential) -> Linear:
    layer = head[-1]
    assert isinstance(layer, Linear)
    return layer


def _masked_max(x: torch.Tensor, exists: torch.Tensor) -> torch.Tensor:
    """(batch, rows, channels) -> (batch, 1, channels): maximum over existing rows, zero where there is none."""
    batch, rows, channels = x.shape
    if rows == 0:
        return x.new_zeros(batch, 1, channels)
    largest = x.masked_fill(~exists[:, :, None], -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(exists.any(1)[:, None, None], largest, 0.0)
