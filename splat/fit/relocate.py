"""A fixed budget of Gaussians: those that have faded move to where there is much to show.

Source: 3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024): copies share the original's opacity
and scale so that the image hardly changes.
"""

from __future__ import annotations

import math

import torch

Tensor = torch.Tensor

#: Below this opacity a Gaussian has faded.
FADED = 0.005
#: More copies of one Gaussian than this are counted as this.
MOST_COPIES = 20


def shared_opacity_and_scale(
    opacities: Tensor, scales: Tensor, copies: Tensor
) -> tuple[Tensor, Tensor]:
    """Opacity and scale of each of `copies` equal Gaussians that together look like one.

    Args:
        opacities: (n,). scales: (n, 3). copies: (n,) int64, at least 1.
    """
    copies = copies.clamp_max(MOST_COPIES)
    shared = 1 - (1 - opacities).pow(1 / copies.to(opacities.dtype))
    total = torch.zeros_like(opacities)
    for i in range(1, MOST_COPIES + 1):
        row = torch.zeros_like(opacities)
        for k in range(i):
            row += math.comb(i - 1, k) * (-1) ** k * shared.pow(k + 1) / math.sqrt(k + 1)
        total += torch.where(i <= copies, row, 0.0)
    return shared, scales * (opacities / total.clamp_min(1e-8))[:, None]


@torch.no_grad()
def relocate(
    parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    grow: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Move faded Gaussians onto drawn ones (likelier the more opaque), and add up to `grow` new ones the same way.

    Args:
        parameters: means, quats_wxyz, log_scales, opacity_logits, sh; leaves that the optimizer holds, in this order,
            one per group.
        optimizer: Adam over them; the state of changed rows starts anew.

    Returns:
        The parameters; new leaves where there are new rows.
    """
    opacities = parameters["opacity_logits"].sigmoid()
    faded = (opacities < FADED).nonzero()[:, 0]
    alive = torch.where(opacities < FADED, 0.0, opacities)
    wanted = len(faded) + grow
    if wanted == 0 or not bool((alive > 0).any()):
        return parameters
    source = torch.multinomial(alive, wanted, replacement=True, generator=generator)
    copies = torch.bincount(source, minlength=len(opacities)) + 1
    touched = (copies > 1).nonzero()[:, 0]
    opacity, scale = shared_opacity_and_scale(
        opacities[touched], parameters["log_scales"][touched].exp(), copies[touched]
    )
    opacity = opacity.clamp(FADED, 1 - 1e-4)
    parameters["opacity_logits"][touched] = (opacity / (1 - opacity)).log()
    parameters["log_scales"][touched] = scale.clamp_min(1e-8).log()
    moved, added = source[: len(faded)], source[len(faded) :]
    reset = torch.cat([touched, faded])
    for group, (name, value) in zip(optimizer.param_groups, parameters.items(), strict=True):
        value[faded] = value[moved]
        state = optimizer.state.pop(value, None)
        if state is not None:
            for key in ("exp_avg", "exp_avg_sq"):
                state[key][reset] = 0
                if grow:
                    empty = state[key].new_zeros(len(added), *value.shape[1:])
                    state[key] = torch.cat([state[key], empty])
        if grow:
            value = torch.cat([value, value[added]]).requires_grad_(True)
            parameters[name] = value
            group["params"] = [value]
        if state is not None:
            optimizer.state[value] = state
    return parameters
