"""The world model: scene points and robot flow in, motion of every scene point out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from pointworld.encoders import ImageEncoder, load_encoder
from pointworld.errors import InputError
from pointworld.model.context import nearest_to_robot, spread_outputs, take_points, take_tokens
from pointworld.model.features_relative import (
    farthest_robot_points,
    relative_robot_features,
    relative_scene_features,
)
from pointworld.model.features_released import released_robot_features, released_scene_features
from pointworld.model.featurisers import Mlp, SceneFeaturiser, TimeEmbedding
from pointworld.model.hand_frame import hand_frame
from pointworld.model.inputs import ModelInputs, ModelOutputs
from pointworld.model.normalisation import VARIANCE_FLOOR, normalise, unnormalise
from pointworld.model.predictor import DynamicsPredictor
from pointworld.model.rollout import MAX_TOKENS, Precision, predict
from pointworld.model.spec import ModelSpec
from pointworld.types import FlowPrediction, RobotFlow, ScenePoints

Tensor = torch.Tensor
#: Subtracted from what the network says of a guess before it becomes a share: training starts with little trust.
DISTRUST = 2.0
#: Makes the image encoder that belongs to a checkpoint, on a device.
EncoderSource = Callable[[torch.device | str], ImageEncoder]


class WorldModel(nn.Module):
    """PTv3 over scene tokens and moving robot tokens, with displacement and log-variance heads.

    Parameter and buffer names are those of the published PointWorld checkpoints (without their image encoder).

    Source: structure, constants and normalisation as in the PointWorld release; `stable` mode differs only in how
    tokens are put on the lattice and ordered (see DynamicsPredictor) and `relative` features in the raw channels.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        width, domains, steps = spec.width, len(spec.domains), spec.num_steps
        self.robot_type_emb = nn.Parameter(torch.randn(1, width) * math.sqrt(2.0 / width))
        self._add_buffer("time_steps", torch.linspace(0.0, 1.0, steps))
        for name, shape in (
            ("norm_stats_per_step", (domains, steps, 3)),
            ("robot_norm", (domains, spec.robot_channels)),
            ("scene_norm", (domains, spec.scene_channels)),
        ):
            self._add_buffer(f"{name}_mean", torch.zeros(shape))
            self._add_buffer(f"{name}_var", torch.ones(shape))
        self.robot_proj = Mlp(spec.robot_channels, width)
        self.time_embed = TimeEmbedding(width, precise=spec.mode == "stable")
        self.scene_feature_encoder = SceneFeaturiser(
            spec.scene_channels, spec.image_channels, width
        )
        self.dynamics_predictor = DynamicsPredictor(
            spec.arch,
            mode=spec.mode,
            grid_size=spec.grid_size,
            together=spec.features == "relative",
            guesses=spec.guesses,
        )

        self.encoder_source: EncoderSource | None = None

    def _add_buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value)

    time_steps: Tensor
    norm_stats_per_step_mean: Tensor
    norm_stats_per_step_var: Tensor
    robot_norm_mean: Tensor
    robot_norm_var: Tensor
    scene_norm_mean: Tensor
    scene_norm_var: Tensor

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.robot_type_emb.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return self.robot_type_emb.dtype

    def image_encoder(self, device: torch.device | str = "cpu") -> ImageEncoder | None:
        """The frozen encoder whose features the model was made for; None for a model without an image branch.

        Its weights come with the checkpoint where it holds them (`encoder_source`), else from `load_encoder`.
        """
        if not self.spec.image_channels or self.spec.encoder is None:
            return None
        if self.encoder_source is not None:
            return self.encoder_source(device)
        layers = self.spec.encoder_layers or None
        return load_encoder(self.spec.encoder, layers=layers, device=device)

    def raw_features(self, inputs: ModelInputs) -> tuple[Tensor, Tensor, Tensor | None]:
        """Raw channels before normalisation: scene (batch, points, Ds) and robot (batch, steps, robot points, Fr).

        With `relative` features also guesses of the motion, (batch, guesses, steps, points, 3), in parts of the
        gripper's travel and along its heading. Geometry keeps its precision under autocast.
        """
        with torch.autocast(inputs.scene_points.device.type, enabled=False):
            return self._raw_features(inputs)

    def _raw_features(self, inputs: ModelInputs) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.spec.features == "released":
            return released_scene_features(inputs), released_robot_features(inputs), None
        frame = hand_frame(inputs.robot_positions, inputs.robot_exists)
        robot_positions = frame.turn(inputs.robot_positions)
        robot_normals = frame.turn(inputs.robot_normals)
        scene = relative_scene_features(
            frame.turn(inputs.scene_points),
            inputs.scene_colors,
            frame.turn(inputs.scene_normals),
            inputs.scene_clusters,
            inputs.scene_exists,
            robot_positions,
            robot_normals,
            inputs.robot_exists,
            inputs.gripper_open,
            sliding=self.spec.sliding,
        )
        robot = relative_robot_features(
            robot_positions, robot_normals, inputs.robot_exists, inputs.gripper_open
        )
        return scene.features, robot, scene.guesses

    def _from_hand_frame(
        self, pred: Tensor, log_var: Tensor, guesses: Tensor, inputs: ModelInputs
    ) -> tuple[Tensor, Tensor]:
        """Turn predictions that are parts of the gripper's travel, along its heading, into normalised displacement.

        `pred` (batch, steps, points, 3 + guesses) has the free motion, and how far each guess is to be trusted.
        """
        frame = hand_frame(inputs.robot_positions, inputs.robot_exists)
        _, variance = self._displacement_stats(inputs.domain)
        unit = variance.mean(-1, keepdim=True).clamp_min(VARIANCE_FLOOR).sqrt()
        scale = frame.travel[:, :, None, None] / unit
        log_var = torch.cat([log_var[:, :1], (log_var + 2 * scale.log())[:, 1:]], 1)
        with torch.autocast(pred.device.type, enabled=False):
            free, trust = pred.to(scale.dtype).split([3, guesses.shape[1]], dim=-1)
            share = torch.sigmoid(trust - DISTRUST).movedim(-1, 1)[..., None]
            return frame.turn_back(free + (share * guesses).sum(1)) * scale, log_var

    def stated_sigma(self, log_var: Tensor, domain: Tensor) -> Tensor:
        """Standard deviation per axis [m] of log variances (batch, steps, points, 1) of normalised errors."""
        _, variance = self._displacement_stats(domain)
        unit = variance.mean(-1, keepdim=True).clamp_min(VARIANCE_FLOOR).sqrt()
        return (log_var / 2).exp() * unit

    def _corrected(self, log_var: Tensor, domain: Tensor) -> Tensor:
        """Log variances under the spec's spread map; those of step 0 stay."""
        spread = self.spec.spread_map
        if spread is None:
            return log_var
        sigma = self.stated_sigma(log_var, domain)
        return torch.cat([log_var[:, :1], (log_var + 2 * (spread(sigma) / sigma).log())[:, 1:]], 1)

    def _chosen_robot_tokens(
        self, inputs: ModelInputs, raw_robot: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions, raw channels and existence of the robot points that become tokens (`spec.robot_tokens`)."""
        positions, exists = inputs.robot_positions, inputs.robot_exists
        count = self.spec.robot_tokens
        if count == 0 or count >= positions.shape[2]:
            return positions, raw_robot, exists
        chosen = farthest_robot_points(positions[:, 0], exists[:, 0], count)
        index = chosen[:, None, :, None].expand(-1, positions.shape[1], -1, -1)
        return (
            positions.gather(2, index.expand(-1, -1, -1, 3)),
            raw_robot.gather(2, index.expand(-1, -1, -1, raw_robot.shape[-1])),
            exists.gather(2, index[..., 0]),
        )

    def normalise_displacements(self, displacements: Tensor, domain: Tensor) -> Tensor:
        """Displacements (batch, steps, points, 3) [m] in the units of `pred_norm`."""
        mean, variance = self._displacement_stats(domain)
        return normalise(displacements, mean, variance)

    def _displacement_stats(self, domain: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = self.norm_stats_per_step_mean[domain], self.norm_stats_per_step_var[domain]
        return mean[:, :, None], variance[:, :, None]

    def encode_images(self, features: Tensor) -> Tensor | None:
        """Sampled image features (..., points, image_channels) to tokens that no robot motion changes.

        None for a model without an image branch.
        """
        return (
            self.scene_feature_encoder.encode_images(features) if self.spec.image_channels else None
        )

    def forward(
        self,
        inputs: ModelInputs,
        *,
        image_tokens: Tensor | None = None,
        orders: str = "identity",
        generator: torch.Generator | None = None,
    ) -> ModelOutputs:
        """Predict the motion of one chunk.

        Args:
            inputs: batch of `spec.num_steps` steps; in `released` mode in the centred frame (see `prepare_released`).
            image_tokens: result of `encode_images`, (batch or 1, points, C), when it is already known.
            orders, generator: `released` mode: draws of the curve orders; drop path in training (DynamicsPredictor).

        Raises:
            InputError: step count, channels or image features do not fit the model.
        """
        self._check(inputs, image_tokens)
        points, context = inputs.scene_points.shape[1], self.spec.context_points
        if not 0 < context < points:
            return self._network(inputs, image_tokens, orders, generator)
        index = nearest_to_robot(inputs, context)
        tokens = take_tokens(image_tokens, index)
        outputs = self._network(take_points(inputs, index), tokens, orders, generator)
        return spread_outputs(outputs, index, points)

    def _network(
        self,
        inputs: ModelInputs,
        image_tokens: Tensor | None,
        orders: str,
        generator: torch.Generator | None,
    ) -> ModelOutputs:
        raw_scene, raw_robot, guesses = self.raw_features(inputs)
        robot_positions, raw_robot, robot_exists = self._chosen_robot_tokens(inputs, raw_robot)
        domain = inputs.domain
        raw_scene = normalise(
            raw_scene, self.scene_norm_mean[domain][:, None], self.scene_norm_var[domain][:, None]
        )
        raw_robot = normalise(
            raw_robot,
            self.robot_norm_mean[domain][:, None, None],
            self.robot_norm_var[domain][:, None, None],
        )
        if image_tokens is None and inputs.scene_features is not None:
            image_tokens = self.encode_images(inputs.scene_features)
        scene_tokens = self.scene_feature_encoder(raw_scene, image_tokens)
        times = self.time_embed(self.time_steps)[None, :, None]
        robot_tokens = self.robot_proj(raw_robot) + times + self.robot_type_emb
        pred_norm, log_var = self.dynamics_predictor(
            inputs.scene_points,
            scene_tokens,
            inputs.scene_exists,
            robot_positions,
            robot_tokens,
            robot_exists,
            clusters=inputs.scene_clusters,
            orders=orders,
            generator=generator,
        )
        if guesses is not None:
            pred_norm, log_var = self._from_hand_frame(pred_norm, log_var, guesses, inputs)
        if not self.training:
            log_var = self._corrected(log_var, domain)
        mean, variance = self._displacement_stats(domain)
        displacements = unnormalise(pred_norm, mean, variance)
        displacements = torch.cat([torch.zeros_like(displacements[:, :1]), displacements[:, 1:]], 1)
        if self.spec.still_below and not self.training:
            least = self.spec.still_below * self.stated_sigma(log_var, domain)
            far = displacements.norm(dim=-1, keepdim=True) > least
            displacements = torch.where(far, displacements, 0.0)
        return ModelOutputs(pred_norm=pred_norm, log_var=log_var, displacements=displacements)

    def predict(
        self,
        scene: ScenePoints,
        robot_flow: RobotFlow,
        *,
        domain: str | None = None,
        max_tokens: int = MAX_TOKENS,
        precision: Precision = "float32",
    ) -> FlowPrediction:
        """Motion of every scene point [m, base frame] under each candidate; see `pointworld.model.rollout.predict`."""
        return predict(
            self, scene, robot_flow, domain=domain, max_tokens=max_tokens, precision=precision
        )

    def _check(self, inputs: ModelInputs, image_tokens: Tensor | None) -> None:
        spec = self.spec
        steps, grippers = inputs.gripper_open.shape[1:]
        if steps != spec.num_steps:
            raise InputError(
                f"robot flow has {steps} steps, expected {spec.num_steps} (horizon {spec.horizon} + now). "
                "Did you pass actions instead of positions?"
            )
        if grippers != spec.grippers:
            raise InputError(
                f"gripper_open has {grippers} channel(s), this model was made for {spec.grippers}"
            )
        if spec.image_channels and image_tokens is None:
            got = 0 if inputs.scene_features is None else inputs.scene_features.shape[-1]
            if got != spec.image_channels:
                raise InputError(
                    f"scene features have {got} channels, this model needs {spec.image_channels} from the encoder "
                    f"'{spec.encoder}': pass load_encoder('{spec.encoder}') to build_scene"
                )
