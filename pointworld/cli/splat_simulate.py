"""`pointworld splat simulate`: an object of a Gaussian scene as jelly, clay or sand, pulled down and pushed."""

from __future__ import annotations

import math
import resource
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from PIL import Image

from pointworld.cli.common import console, parse, progress, stdout_json, write_run_json
from pointworld.cli.splat_edit import best_cameras, object_plane
from pointworld.cli.splat_fit import check_scene_folder
from pointworld.cli.splat_future import read_prediction
from pointworld.cli.splat_pictures import Look
from pointworld.cli.splat_query import camera_index, view_of_camera
from pointworld.cli.splat_simulate_robot import RobotInScene, robot_in_scene
from pointworld.errors import InputError
from pointworld.files import atomic_path
from pointworld.geometry import transform_points
from pointworld.view.video import write_video
from splat.edit import members
from splat.fit.optimise import render
from splat.io import NativeFile, read_native, write_native
from splat.motion_neighbors import nearest_points
from splat.physics import NEAR, Simulation, moved_scene, simulate
from splat.physics_demo import FLOOR, finger_scene, jelly_cube, sand_column
from splat.physics_particles import OPAQUE, above_support
from splat.physics_types import MATERIALS, Kind, Material, PhysicsOptions, PushPath
from splat.query import Plane
from splat.raster import get_rasterizer
from splat.types import GaussianScene, concatenate

Tensor = torch.Tensor

#: Pictures in the contact sheet, and how many stand side by side.
SHEET, SHEET_COLUMNS = 12, 4
#: What is nearer to the object than this belongs to it rather than being in its way [m].
CLEAR = 0.01


@dataclass(frozen=True, kw_only=True)
class SplatSimulateArgs:
    """Simulate an object of a scene as elastic, plastic or granular material (material-point method, on the CPU).

    The object is one that pointworld splat query found, or everything that stands on its support. With --robot, the
    surface of the robot in a prediction of pointworld predict pushes it. Writes physics.mp4, sheet.png,
    last.safetensors (the scene at the end), physics.npz (times, positions, deformations, energies), run.json.

    Example: pointworld splat simulate out/cup --object 0 --material elastic --out out/jelly_cup
    Example: pointworld splat simulate out/cup --object 0 --all --material granular --out out/collapse
    Example: pointworld splat simulate out/cup --object 0 --robot out/push --out out/pushed
    Example: pointworld splat simulate --demo sand --out out/sand
    """

    out: Path
    """Folder for the results."""
    scene: tyro.conf.Positional[Path | None] = None
    """Folder of splat query, or its scene.safetensors."""
    demo: Literal["jelly", "sand"] | None = None
    """A made scene instead: a jelly cube that falls and is pushed, or a column of sand."""
    object: int | None = None
    """Number of the object; its support is the floor."""
    all: bool = False
    """Everything that stands on the object's support, as one material."""
    support: tuple[float, float, float, float] | None = None
    """The support as NX NY NZ OFFSET (normal . p = offset [m]), where no query found it."""
    robot: Path | None = None
    """Folder of a prediction in the same capture; its robot pushes, and moves in the pictures."""
    robot_radius: float = 0.008
    """Every point of the robot's surface is a ball of this size [m]."""
    obstacles: bool = True
    """What else stands near the object is in the way."""
    material: Kind = "elastic"
    """elastic: jelly, springs back. plastic: clay, keeps dents. granular: sand, flows."""
    density: float | None = None
    """Of the material [kg/m^3]."""
    young_modulus: float | None = None
    """Stiffness of the material [Pa]; 1e3 is soft jelly, 1e6 rubber."""
    poisson_ratio: float | None = None
    """Of the material, below 0.5."""
    yield_stress: float | None = None
    """Of plastic material, the shear stress from which it flows [Pa]."""
    friction: float | None = None
    """Of granular material, the tangent of its angle of repose."""
    physics: PhysicsOptions = field(default_factory=PhysicsOptions)
    """Particles, duration, steps, friction against the support and the robot, gravity, device."""
    camera: str = ""
    """Camera (name or number) that looks; by default the one that sees most of the object."""
    scale: float = 2.0
    """Size of the pictures against the fitted images."""
    backend: str = "auto"
    """Rasteriser: auto, cpu, gsplat, reference."""
    json: bool = False
    """Print the summary as one JSON object on stdout."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """What is simulated and how it is looked at: viewmat (4, 4), K (3, 3) [px], size (width, height)."""

    stored: NativeFile
    mask: Tensor
    plane: Plane
    material: Material
    push: PushPath | None
    viewmat: Tensor
    K: Tensor
    size: tuple[int, int]

    @property
    def scene(self) -> GaussianScene:
        """The Gaussians at time 0."""
        return self.stored.scene


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = parse(SplatSimulateArgs, argv, prog="pointworld splat simulate")
    began = time.perf_counter()
    setup = demo_setup(args) if args.demo else scene_setup(args)
    obstacles = obstacle_points(args, setup)
    frames = round(args.physics.seconds / args.physics.frame_dt)
    with progress(frames, "simulating") as advance:
        simulation = simulate(
            setup.scene,
            setup.mask,
            setup.plane,
            setup.material,
            args.physics,
            push=setup.push,
            obstacles=obstacles,
            advance=advance,
        )
    done = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    write_simulation(args.out / "physics.npz", simulation)
    robot = robot_of(args, setup, simulation)
    last = scene_at(setup, simulation, robot, len(simulation.times) - 1)
    stored = setup.stored
    write_native(
        last, args.out / "last.safetensors", tensors=stored.tensors, metadata=stored.metadata
    )
    pictures = draw(args, setup, simulation, robot)
    write_video(args.out / "physics.mp4", pictures, fps=1 / args.physics.frame_dt)
    write_sheet(args.out / "sheet.png", pictures)
    summary = summarize(setup, simulation)
    summary["simulate_seconds"] = round(done - began, 2)
    summary["seconds"] = round(time.perf_counter() - began, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    summary["peak_memory_mb"] = round(peak, 1)
    write_run_json(
        args.out,
        command="splat simulate",
        config=args,
        seed=0,
        timings={"simulate": summary["simulate_seconds"], "all": summary["seconds"]},
        extra={"summary": summary},
    )
    console.print(
        f"{summary['particles']:,} {setup.material.kind} particles under {summary['object_gaussians']:,} Gaussians, "
        f"{summary['steps']} steps in {summary['simulate_seconds']:.0f} s; volume "
        f"{100 * summary['volume_ratio']:.1f} %, energy {summary['energy_first_j']:.3g} -> "
        f"{summary['energy_last_j']:.3g} J; in {args.out}"
    )
    if args.json:
        stdout_json(summary)
    return 0


def demo_setup(args: SplatSimulateArgs) -> Setup:
    """The made scene that --demo names."""
    if args.scene is not None:
        raise InputError("give a scene or --demo, not both")
    made = jelly_cube(drop=0.04) if args.demo == "jelly" else sand_column()
    viewmat, K = made.viewmat, made.K.clone()
    K[:2] *= args.scale
    return Setup(
        stored=NativeFile(scene=made.scene),
        mask=made.mask,
        plane=FLOOR,
        material=chosen_material(args, made.material),
        push=made.push,
        viewmat=viewmat,
        K=K,
        size=(round(320 * args.scale), round(240 * args.scale)),
    )


def scene_setup(args: SplatSimulateArgs) -> Setup:
    """The object of a stored scene that the arguments name."""
    if args.scene is None:
        raise InputError("give a scene of pointworld splat query, or --demo jelly | sand")
    stored = read_native(check_scene_folder(args.scene))
    if args.object is None and not args.all:
        raise InputError("give --object N (see pointworld splat query), or --all with --support")
    mask = None if args.object is None else members(stored.scene, args.object)
    plane = support_plane(args, stored)
    if args.all or mask is None:
        near = None if mask is None else stored.scene.means[mask].mean(0)
        mask = above_support(stored.scene, plane, near=near)
    camera = camera_index(stored, args.camera) if args.camera else None
    if camera is None:
        camera = best_cameras(stored, mask, args.backend)[0]
    viewmat, K, (width, height) = view_of_camera(stored, camera)
    K = K.clone()
    K[:2] *= args.scale
    return Setup(
        stored=stored,
        mask=mask,
        plane=plane,
        material=chosen_material(args, MATERIALS[args.material]),
        push=None if args.robot is None else robot_path(args.robot, args.robot_radius),
        viewmat=viewmat,
        K=K,
        size=(round(width * args.scale), round(height * args.scale)),
    )


def support_plane(args: SplatSimulateArgs, stored: NativeFile) -> Plane:
    """The support: given, or what the object was found to stand on; its normal on the cameras' side."""
    if args.support is None:
        plane = None if args.object is None else object_plane(stored, args.object)
        if plane is None:
            raise InputError(
                "it is not known what the object stands on; give --support NX NY NZ OFFSET, or find it with "
                "pointworld splat query"
            )
        return plane
    normal = np.array(args.support[:3])
    length = float(np.linalg.norm(normal))
    if not (math.isfinite(length) and length > 1e-6):
        raise InputError(f"--support {args.support}: the normal has no direction")
    offset = args.support[3] / length
    plane = Plane(normal=normal / length, offset=offset, band=0.006)
    if "camera_viewmats" in stored.tensors:
        viewmat = view_of_camera(stored, 0)[0].double()
        eye = -(viewmat[:3, :3].T @ viewmat[:3, 3]).numpy()
        if float(plane.height(eye[None])[0]) < 0:
            plane = Plane(normal=-plane.normal, offset=-offset, band=plane.band)
    return plane


def chosen_material(args: SplatSimulateArgs, base: Material) -> Material:
    """The material with what the arguments change."""
    names = ("density", "young_modulus", "poisson_ratio", "yield_stress", "friction")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return replace(base, **given)


def robot_path(folder: Path, radius: float) -> PushPath:
    """The robot's surface in a prediction, in the scene's world.

    Raises:
        InputError: there is no robot in it, or it does not say where its base stands.
    """
    prediction = read_prediction(folder)
    places = prediction.result.robot_positions
    if places is None:
        raise InputError(f"{folder} holds no robot positions; run pointworld predict again")
    positions = transform_points(prediction.T_world_base, places.astype(np.float64))
    step_dt = prediction.result.step_dt
    return PushPath(positions=torch.from_numpy(positions), step_dt=step_dt, radius=radius)


def obstacle_points(args: SplatSimulateArgs, setup: Setup) -> Tensor | None:
    """Opaque Gaussians of other things on the support (not those under or within the object)."""
    if not args.obstacles or args.demo:
        return None
    height = torch.from_numpy(setup.plane.height(setup.scene.means.double().numpy()))
    others = (height > setup.plane.band) & (setup.scene.opacities > OPAQUE) & ~setup.mask
    means = setup.scene.means[others]
    gap = nearest_points(means, setup.scene.means[setup.mask], 1).distance[:, 0]
    return means[(gap > CLEAR) & (gap < NEAR)]


def robot_of(args: SplatSimulateArgs, setup: Setup, simulation: Simulation) -> RobotInScene | None:
    """The robot of --robot at the simulation's times; None without one, or where only its surface points are known."""
    if args.robot is None:
        return None
    stored = setup.stored
    cameras = range(len(stored.tensors["camera_K"]))
    looks = [
        Look(viewmat=v, K=K, size=s) for v, K, s in (view_of_camera(stored, i) for i in cameras)
    ]
    return robot_in_scene(
        setup.scene,
        read_prediction(args.robot),
        simulation.times.numpy(),
        setup.mask,
        looks=looks,
        rasterizer=get_rasterizer(args.backend),
    )


def scene_at(
    setup: Setup, simulation: Simulation, robot: RobotInScene | None, frame: int
) -> GaussianScene:
    """The scene at a frame: the material where it went, and the robot where its path puts it."""
    if robot is None:
        return moved_scene(setup.scene, setup.mask, simulation, frame)
    scene = robot.at(frame)
    mask = torch.zeros(len(scene), dtype=torch.bool)
    mask[: len(setup.mask)] = setup.mask
    moving = scene.moving
    scene = moved_scene(scene, mask, simulation, frame)
    return scene if moving is None else replace(scene, moving=mask | moving)


def draw(
    args: SplatSimulateArgs, setup: Setup, simulation: Simulation, robot: RobotInScene | None
) -> list[np.ndarray]:
    """One picture (height, width, 3) uint8 per frame; what pushes and is not in the scene is drawn grey."""
    rasterizer = get_rasterizer(args.backend)
    pictures = []
    with progress(len(simulation.times), "rendering") as advance, torch.no_grad():
        for index, moment in enumerate(simulation.times.tolist()):
            scene = scene_at(setup, simulation, robot, index)
            if setup.push is not None and robot is None:
                scene = concatenate([plain_scene(scene), finger_scene(setup.push, moment)])
            image, _ = render(rasterizer, scene, setup.viewmat, setup.K, setup.size, "RGB")
            pictures.append((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
            advance(1)
    return pictures


def plain_scene(scene: GaussianScene) -> GaussianScene:
    """The scene with colours that do not depend on the direction, to be joined with others of that kind."""
    return replace(scene, sh=scene.sh[:, :1])


def write_sheet(path: Path, pictures: list[np.ndarray]) -> None:
    """Up to SHEET pictures, evenly spread over time, in rows."""
    chosen = np.unique(np.linspace(0, len(pictures) - 1, SHEET).round().astype(int))
    tiles = [pictures[i][::2, ::2] for i in chosen]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % SHEET_COLUMNS)
    rows = [
        np.concatenate(tiles[i : i + SHEET_COLUMNS], 1) for i in range(0, len(tiles), SHEET_COLUMNS)
    ]
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate(rows)).save(temporary, format="PNG")


def write_simulation(path: Path, simulation: Simulation) -> None:
    """times, positions, deformations (float32), and energies (frames, 3): kinetic, height, elastic [J]."""
    energies = [[e.kinetic, e.height, e.elastic] for e in simulation.energies]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            times=simulation.times.numpy(),
            positions=simulation.positions.float().numpy(),
            deformations=simulation.deformations.float().numpy(),
            energies=np.array(energies),
        )


def summarize(setup: Setup, simulation: Simulation) -> dict[str, Any]:
    """The numbers of run.json and --json."""
    totals = [energy.total for energy in simulation.energies]
    shift = (simulation.positions[-1] - simulation.positions[0]).norm(dim=-1)
    return {
        "material": setup.material.kind,
        "gaussians": len(setup.scene),
        "object_gaussians": int(setup.mask.sum()),
        "particles": simulation.positions.shape[1],
        "spacing_m": round(simulation.spacing, 5),
        "mass_kg": round(simulation.mass * simulation.positions.shape[1], 4),
        "steps": simulation.steps,
        "simulated_s": round(float(simulation.times[-1]), 4),
        "volume_ratio": round(float(simulation.volume_ratios[-1]), 4),
        "energy_first_j": totals[0],
        "energy_last_j": totals[-1],
        "largest_energy_gain_j": max(0.0, max(b - a for a, b in pairwise(totals))),
        "mean_shift_m": round(float(shift.mean()), 4),
    }
