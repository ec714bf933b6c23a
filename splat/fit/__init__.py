"""Fit Gaussians to an RGB-D capture."""

from splat.fit.cameras import CameraCorrections as CameraCorrections
from splat.fit.images import psnr as psnr
from splat.fit.images import ssim as ssim
from splat.fit.measure import Shown as Shown
from splat.fit.measure import measure as measure
from splat.fit.measure import show_views as show_views
from splat.fit.optimise import FitConfig as FitConfig
from splat.fit.optimise import Fitted as Fitted
from splat.fit.optimise import fit as fit
from splat.fit.rig import Rig as Rig
from splat.fit.rig import corrected_views as corrected_views
from splat.fit.rig_solve import find_rig as find_rig
from splat.fit.update import Updated as Updated
from splat.fit.update import update as update
from splat.fit.views import FitView as FitView
from splat.fit.views import split_views as split_views
