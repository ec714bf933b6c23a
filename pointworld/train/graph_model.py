"""A small graph network, a learned baseline: scene points as particles, messages between near ones, all steps at once.

Points exchange messages with their nearest neighbours over a few rounds, as in particle-based learned simulators; what
the robot does enters every point as vectors to its surface, step by step. Motion is predicted as the world model
predicts it, in the gripper's heading frame and as a part of its travel, so that the two differ in the network alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pointworld.errors import CheckpointError, InputError
from pointworld.files import atomic_path
from pointworld.model import ModelInputs, ModelOutputs, collate
from pointworld.model.context import nearest_to_robot, spread_outputs, take_points
from pointworld.model.hand_frame import HandFrame, gripper_centre, hand_frame
from pointworld.products import Linear
from pointworld.types import RobotFlow, ScenePoints

Tensor = torch.Tensor

FILE = "gnn.safetensors"
FORMAT = "pointworld-gnn-1"
STEPS = 11
#: Unit of places, paths and edges [m]; decay length of the contact channel [m].
PLACE, EDGE, CONTACT = 0.1, 0.05, 0.02
#: Channels of a point: colour, normal, place, path, travel and opening of the gripper, and 7 of the robot per step.
CHANNELS = 9 + 3 * STEPS + 2 * STEPS + 7 * STEPS


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """Size of the network.

    width: channels of a point. rounds: of messages. neighbours: of a point in a round.
    dilations: round r looks at every dilations[r % len]-th of the nearest points, so that some rounds look farther.
    context_points: points that take part, those nearest to the robot's path; the others are predicted to stay.
    step_dt: [s].
    """

    width: int = 128
    rounds: int = 6
    neighbours: int = 12
    dilations: tuple[int, ...] = (1, 2, 3)
    context_points: int = 700
    step_dt: float = 0.1

    def to_json(self) -> dict[str, object]:
        """Plain dictionary for a JSON file."""
        return asdict(self)

    def __post_init__(self) -> None:
        if min(self.width, self.rounds, self.neighbours, self.context_points) < 1:
            raise InputError(f"graph network: every size must be at least 1, got {self}")
        if not self.dilations or min(self.dilations) < 1:
            raise InputError(f"graph network: dilations are {self.dilations}, expected 1 or more")


def _mlp(inner: int, width: int, outer: int) -> nn.Sequential:
    return nn.Sequential(Linear(inner, width), nn.ReLU(), Linear(width, outer))


class MessageRound(nn.Module):
    """One round: the largest of the messages of all neighbours, then an update of every point.

    A message is linear in the sender's state and in its place relative to the receiver, then rectified (EdgeConv with
    one layer). The receiver's part is the same for all of its neighbours, so that it can be added after the maximum.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sender = Linear(width, width)
        self.receiver = Linear(width, width, bias=False)
        self.offset = Linear(3, width, bias=False)
        self.update = _mlp(2 * width, width, width)

    def forward(self, hidden: Tensor, places: Tensor, index: Tensor) -> Tensor:
        """Update (batch, points, width).

        Args:
            places: (batch, points, 3) in units of EDGE. index: (batch, points, k) neighbours.
        """
        batch, points, width = hidden.shape
        normed = self.norm(hidden)
        offset = self.offset(places)
        rows = index + points * torch.arange(batch, device=index.device)[:, None, None]
        sent = (self.sender(normed) + offset).view(-1, width)
        largest = nn.functional.embedding_bag(rows.flatten(0, 1), sent, mode="max")
        received = largest.view(hidden.shape) - offset + self.receiver(normed)
        change: Tensor = self.update(torch.cat([normed, torch.relu(received)], -1))
        return hidden + change


class GraphModel(nn.Module):
    """The baseline; `scale` (steps,) is the unit of predicted motion, as a part of the gripper's travel."""

    scale: Tensor

    def __init__(self, spec: GraphSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = _mlp(CHANNELS, spec.width, spec.width)
        self.rounds = nn.ModuleList(MessageRound(spec.width) for _ in range(spec.rounds))
        self.head = nn.Sequential(
            nn.LayerNorm(spec.width), _mlp(spec.width, spec.width, 4 * (STEPS - 1))
        )
        self.register_buffer("scale", torch.ones(STEPS))

    def forward(self, inputs: ModelInputs) -> ModelOutputs:
        """Motion of a padded batch; points beyond the context stay."""
        points, context = inputs.scene_points.shape[1], self.spec.context_points
        if context >= points:
            return self._network(inputs)
        index = nearest_to_robot(inputs, context)
        return spread_outputs(self._network(take_points(inputs, index)), index, points)

    def _network(self, inputs: ModelInputs) -> ModelOutputs:
        frame = hand_frame(inputs.robot_positions, inputs.robot_exists)
        places = frame.turn(inputs.scene_points)
        hidden = self.encoder(graph_features(inputs, frame))
        order = _nearest(places, inputs.scene_exists, self.spec)
        for number, layer in enumerate(self.rounds):
            dilation = self.spec.dilations[number % len(self.spec.dilations)]
            index = order[..., ::dilation][..., : self.spec.neighbours]
            hidden = layer(hidden, places / EDGE, index)
        batch, count, _ = hidden.shape
        out = self.head(hidden).view(batch, count, STEPS - 1, 4).transpose(1, 2)
        out = torch.cat([out.new_zeros(batch, 1, count, 4), out], 1)
        pred, log_var = out[..., :3], out[..., 3:]
        return ModelOutputs(
            pred_norm=pred,
            log_var=log_var,
            displacements=frame.turn_back(pred) * self.units(frame),
        )

    def units(self, frame: HandFrame) -> Tensor:
        """(batch, steps, 1, 1) metres per unit of `pred_norm`."""
        return (frame.travel * self.scale)[:, :, None, None]

    def normalise(self, displacements: Tensor, frame: HandFrame) -> Tensor:
        """Displacements (batch, steps, points, 3) [m] in the units of `pred_norm`."""
        return frame.turn(displacements) / self.units(frame)

    @torch.no_grad()
    def predict(self, scene: ScenePoints, robot: RobotFlow) -> tuple[Tensor, Tensor]:
        """Displacements (steps, points, 3) and their per-axis standard deviations (steps, points), both [m]."""
        # This network has no use for what hangs together; saying so saves looking for it.
        loose = replace(scene, clusters=torch.zeros(len(scene), dtype=torch.int64))
        inputs = collate([(loose, robot)])
        outputs = self(inputs)
        frame = hand_frame(inputs.robot_positions, inputs.robot_exists)
        sigma = (outputs.log_var / 2).exp() * self.units(frame)
        return outputs.displacements[0], sigma[0, ..., 0]


@torch.no_grad()
def graph_features(inputs: ModelInputs, frame: HandFrame) -> Tensor:
    """(batch, points, CHANNELS) of what a point is and where the robot is from it, in the gripper's frame."""
    points = frame.turn(inputs.scene_points)
    robot = frame.turn(inputs.robot_positions)
    centre = gripper_centre(robot, inputs.robot_exists)
    batch, count, _ = points.shape
    columns = [
        inputs.scene_colors,
        frame.turn(inputs.scene_normals),
        (points - centre[:, :1]) / PLACE,
    ]
    for values in (
        (centre - centre[:, :1]).flatten(1) / PLACE,
        frame.travel / PLACE,
        inputs.gripper_open.mean(-1),
    ):
        columns.append(values[:, None].expand(batch, count, -1))
    for step in range(STEPS):
        gap = torch.cdist(points, robot[:, step])
        gap = gap.masked_fill(~inputs.robot_exists[:, step, None], torch.inf)
        distance, nearest = gap.min(-1)
        vector = robot[:, step].gather(1, nearest[..., None].expand(-1, -1, 3)) - points
        far = distance.clamp_max(10.0)[..., None]
        columns += [
            vector / (far + PLACE),
            torch.exp(-far / CONTACT),
            (centre[:, None, step] - points) / PLACE,
        ]
    return torch.where(inputs.scene_exists[..., None], torch.cat(columns, -1), 0.0)


@torch.no_grad()
def _nearest(points: Tensor, exists: Tensor, spec: GraphSpec) -> Tensor:
    """(batch, points, k) points in the order of their distance, the point itself first."""
    count = min(spec.neighbours * max(spec.dilations), points.shape[1])
    gap = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    gap = gap.masked_fill(~exists[:, None], torch.inf)
    near = gap.topk(count, dim=-1, largest=False)
    # Where there are not enough points, the nearest one, itself, is repeated.
    return torch.where(near.values.isfinite(), near.indices, near.indices[..., :1])


def save_graph_model(model: GraphModel, folder: str | Path, *, training: dict[str, object]) -> Path:
    """Write weights, size and where they come from to `folder`/gnn.safetensors; returns the file."""
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    described = {"format": FORMAT, "spec": model.spec.to_json(), "training": training}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata={"description": json.dumps(described)})
    return path


def load_graph_model(folder: str | Path) -> GraphModel:
    """Read a network written by `save_graph_model`, from its folder or file.

    Raises:
        CheckpointError: no such file, damaged, or of another format.
    """
    path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
    try:
        with safe_open(path, framework="pt") as archive:
            described = json.loads((archive.metadata() or {})["description"])
            weights = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118
        if described["format"] != FORMAT:
            raise CheckpointError(f"{path}: format is {described['format']!r}, expected {FORMAT!r}")
        sizes = dict(described["spec"])
        model = GraphModel(GraphSpec(**sizes | {"dilations": tuple(sizes["dilations"])}))
        model.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is no graph network of 'pointworld train gnn' ({error})"
        ) from error
    return model.eval()
