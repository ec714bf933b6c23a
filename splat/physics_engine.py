"""The solver: Newton's implicit material-point method on Warp, in axes where the support is z = 0.

The engine's own rendering frame grows under rotation (it adds dt L F each step) and is clamped; here F is carried by
the series of exp(dt L), L the velocity gradient of the particle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pointworld.errors import InputError, MissingExtraError
from splat.physics_types import UNBREAKABLE, Energy, Material, PhysicsOptions, PushPath

Array = np.ndarray

#: The grid's cells are this many particle spacings wide: eight particles in each.
CELL = 2.0
#: Side of the tetrahedron that stands for a pushing point, as a share of its radius.
CORE = 0.02
#: Its corners.
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
FACES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
#: Faster than this a particle has left the simulation [m/s].
RUNAWAY = 100.0


def import_newton() -> tuple[Any, Any]:
    """The packages `warp` and `newton`.

    Raises:
        MissingExtraError: they are not installed.
    """
    try:
        import newton
        import warp
    except ImportError as error:
        raise MissingExtraError("newton", "physics", "Simulating Gaussians") from error
    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)
    return warp, newton


class MaterialPoints:
    """Particles of one material on a floor, gravity along -z, pushed by balls that follow given paths."""

    def __init__(
        self,
        rest: Array,
        spacing: float,
        material: Material,
        options: PhysicsOptions,
        pushes: Sequence[PushPath] = (),
    ) -> None:
        """Put particles at rest (n, 3) [m], each a cube with side `spacing`, at time 0.

        Args:
            pushes: what pushes, in the same axes.

        Raises:
            MissingExtraError: the extra `physics` is not installed.
        """
        self._warp, newton = import_newton()
        self.mass = material.density * spacing**3
        self._material, self._gravity = material, options.gravity
        self._volume = spacing**3
        self._time = 0.0
        solver = newton.solvers.SolverImplicitMPM
        builder = newton.ModelBuilder()
        solver.register_custom_attributes(builder)
        builder.add_particles(
            pos=rest.tolist(),
            vel=np.zeros_like(rest).tolist(),
            mass=[self.mass] * len(rest),
            radius=[spacing / 2] * len(rest),
        )
        builder.add_ground_plane()
        self._model = builder.finalize(device=options.device)
        self._model.set_gravity((0.0, 0.0, -options.gravity))
        self._set_material(material)
        self._now, self._next = self._model.state(), self._model.state()
        config = solver.Config(voxel_size=CELL * spacing, air_drag=0.0)
        if material.kind == "granular":
            # With one pressure per cell a layer thinner than a cell sinks into the floor.
            config.strain_basis = "P1d"
        if material.kind == "elastic":
            config.carry_residual_strain = "unconverged"
        self._solver = solver(self._model, config=config)
        self._pushes = list(pushes)
        self._meshes = [self._mesh(push) for push in self._pushes]
        self._solver.setup_collider(
            collider_meshes=[None, *self._meshes],
            collider_body_ids=[-1, *([None] * len(self._meshes))],
            collider_margins=[None, *(push.radius for push in self._pushes)],
            collider_friction=[
                options.floor_friction,
                *([options.push_friction] * len(self._meshes)),
            ],
        )
        self._F = np.tile(np.eye(3), (len(rest), 1, 1))

    def _set_material(self, material: Material) -> None:
        values = self._model.mpm
        values.young_modulus.fill_(material.young_modulus)
        values.poisson_ratio.fill_(material.poisson_ratio)
        values.damping.fill_(material.damping)
        values.friction.fill_(material.friction)
        grains = material.kind == "granular"
        stress = {"elastic": UNBREAKABLE, "plastic": material.yield_stress, "granular": 0.0}
        values.yield_stress.fill_(stress[material.kind])
        values.yield_pressure.fill_(UNBREAKABLE)
        values.tensile_yield_ratio.fill_(0.0 if grains else 1.0)

    def _mesh(self, push: PushPath) -> Any:
        """One tiny tetrahedron per point; its margin makes it a ball, and overlapping balls a union."""
        wp = self._warp
        place, speed = push.at(0.0)
        count = len(place)
        faces = (FACES[None] + 4 * np.arange(count)[:, None, None]).reshape(-1)
        device = self._model.device
        return wp.Mesh(
            points=wp.array(_corners(place, push.radius), dtype=wp.vec3, device=device),
            velocities=wp.array(np.repeat(speed, 4, axis=0), dtype=wp.vec3, device=device),
            indices=wp.array(faces.astype(np.int32), dtype=wp.int32, device=device),
        )

    def step(self, dt: float) -> None:
        """Advance everything by `dt` [s]."""
        for push, mesh in zip(self._pushes, self._meshes, strict=True):
            place, speed = push.at(self._time)
            mesh.points.assign(_corners(place, push.radius).astype(np.float32))
            mesh.velocities.assign(np.repeat(speed, 4, axis=0).astype(np.float32))
            mesh.refit()
        self._solver.step(self._now, self._next, None, None, dt)
        L = self._next.mpm.particle_qd_grad.numpy().astype(np.float64)
        self._solver.project_outside(self._next, self._next, dt)
        self._now, self._next = self._next, self._now
        A = dt * L
        self._F += A @ (self._F + 0.5 * (A @ (self._F + (A @ self._F) / 3)))
        self._time += dt

    def state(self) -> tuple[Array, Array]:
        """Positions (n, 3) [m] and deformation gradients (n, 3, 3) against time 0, float64.

        Raises:
            InputError: the simulation has left all bounds.
        """
        place = self._now.particle_q.numpy().astype(np.float64)
        speed = self._now.particle_qd.numpy()
        fine = np.isfinite(place).all() and np.isfinite(self._F).all()
        if not fine or float(np.abs(speed).max()) > RUNAWAY:
            raise InputError(
                f"the simulation left all bounds after {self._time:.3f} s; take a shorter max_step or a softer material"
            )
        return place, self._F.copy()

    def energy(self) -> Energy:
        """Of the present state; the elastic part is the work that Hooke's law stores under the solver's stress."""
        speed = self._now.particle_qd.numpy().astype(np.float64)
        place = self._now.particle_q.numpy().astype(np.float64)
        stress = self._now.mpm.particle_stress.numpy().astype(np.float64)
        E, nu = self._material.young_modulus, self._material.poisson_ratio
        trace = np.trace(stress, axis1=-2, axis2=-1)
        density = ((1 + nu) * (stress**2).sum((-2, -1)) - nu * trace**2) / (2 * E)
        return Energy(
            kinetic=float(0.5 * self.mass * (speed**2).sum()),
            height=float(self.mass * self._gravity * place[:, 2].sum()),
            elastic=float(self._volume * density.sum()),
        )


def _corners(place: Array, radius: float) -> Array:
    """(4 points, 3) corners of the tetrahedra round `place` (points, 3)."""
    corners: Array = (place[:, None] + CORE * radius * TETRAHEDRON).reshape(-1, 3)
    return corners
