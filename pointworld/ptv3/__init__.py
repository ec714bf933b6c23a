"""Point Transformer V3 in plain PyTorch, with the released and the stable semantics."""

from pointworld.ptv3.arch import PTv3Arch as PTv3Arch
from pointworld.ptv3.backbone import PTv3 as PTv3
from pointworld.ptv3.curves import CURVES as CURVES
from pointworld.ptv3.curves import curve_codes as curve_codes
from pointworld.ptv3.levels import Pyramid as Pyramid
from pointworld.ptv3.levels import released_pyramid as released_pyramid
from pointworld.ptv3.levels import stable_grid as stable_grid
from pointworld.ptv3.levels import stable_pyramid as stable_pyramid
