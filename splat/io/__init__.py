"""Gaussian scene files: INRIA and compressed .ply, .splat, .spz, our .safetensors; export to .glb and .usda."""

from splat.io.arrays import SplatArrays as SplatArrays
from splat.io.files import READABLE as READABLE
from splat.io.files import WRITABLE as WRITABLE
from splat.io.files import read as read
from splat.io.files import to_arrays as to_arrays
from splat.io.files import to_scene as to_scene
from splat.io.files import write as write
from splat.io.glb import write_glb as write_glb
from splat.io.native import NativeFile as NativeFile
from splat.io.native import read_native as read_native
from splat.io.native import write_native as write_native
from splat.io.ply import write_ply as write_ply
from splat.io.ply_compressed import write_compressed_ply as write_compressed_ply
from splat.io.splat_file import write_splat as write_splat
from splat.io.spz import read_spz as read_spz
from splat.io.spz import write_spz as write_spz
from splat.io.usd import write_usda as write_usda
