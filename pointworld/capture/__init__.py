"""RGB-D captures: readers and a writer, depth cleaning and registration, and a check of the calibration."""

from pointworld.capture.depth import clean_depth as clean_depth
from pointworld.capture.depth import register_depth as register_depth
from pointworld.capture.doctor import diagnose as diagnose
from pointworld.capture.read import list_capture as list_capture
from pointworld.capture.read import read_capture as read_capture
from pointworld.capture.report import CaptureReport as CaptureReport
from pointworld.capture.report import Finding as Finding
from pointworld.capture.residuals import PairResidual as PairResidual
from pointworld.capture.residuals import neighbour_residuals as neighbour_residuals
from pointworld.capture.residuals import pair_residual as pair_residual
from pointworld.capture.write import write_capture as write_capture
