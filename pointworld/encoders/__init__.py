"""Frozen image encoders behind one interface."""

from pointworld.encoders.dinov3_meta import (
    dinov3_from_meta_state_dict as dinov3_from_meta_state_dict,
)
from pointworld.encoders.lejepa import LeJEPAEncoder as LeJEPAEncoder
from pointworld.encoders.protocol import ImageEncoder as ImageEncoder
from pointworld.encoders.protocol import frame_to_tensor as frame_to_tensor
from pointworld.encoders.registry import load_encoder as load_encoder
from pointworld.encoders.rgb import RGBEncoder as RGBEncoder
from pointworld.encoders.vit import ViTEncoder as ViTEncoder
from pointworld.encoders.vit import default_layers as default_layers
from pointworld.encoders.xfeat import XFeatEncoder as XFeatEncoder
