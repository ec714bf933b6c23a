"""RGB-D captures: readers and a writer, depth cleaning and registration, and a check of the calibration."""

from pointworld.capture.depth import clean_depth as clean_depth
from pointworld.capture.depth import register_depth as register_depth
from pointworld.capture.read import list_capture as list_capture
from pointworld.capture.read import read_capture as read_capture
