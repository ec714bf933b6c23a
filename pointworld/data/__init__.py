"""Simulated tabletop data: drawing, simulating and rendering clips, and reading them as samples."""

from pointworld.data.clip import Clip as Clip
from pointworld.data.clip import ClipView as ClipView
from pointworld.data.clip import clip_path as clip_path
from pointworld.data.clip import iterate_clips as iterate_clips
from pointworld.data.clip import list_clips as list_clips
from pointworld.data.clip import read_clip as read_clip
from pointworld.data.clip import write_clip as write_clip
from pointworld.data.dataset import DatasetSpec as DatasetSpec
from pointworld.data.dataset import clip_facts as clip_facts
from pointworld.data.dataset import dataset_generator as dataset_generator
from pointworld.data.dataset import generate_dataset as generate_dataset
from pointworld.data.generate import ClipGenerator as ClipGenerator
from pointworld.data.sample import FlowSample as FlowSample
from pointworld.data.sample import clip_frames as clip_frames
from pointworld.data.sample import clip_to_capture as clip_to_capture
from pointworld.data.sample import clip_to_joint_path as clip_to_joint_path
from pointworld.data.sample import clip_to_sample as clip_to_sample
from pointworld.data.sample import moving_bodies as moving_bodies
from pointworld.data.sample import point_bodies as point_bodies
from pointworld.data.sample import tabletop_workspace as tabletop_workspace
from pointworld.data.sample import true_positions as true_positions
from pointworld.data.sensor import Observation as Observation
from pointworld.data.sensor import SensorConfig as SensorConfig
from pointworld.data.sensor import observe as observe
from pointworld.data.tabletop import TABLETOP_WORKSPACE as TABLETOP_WORKSPACE
from pointworld.data.tabletop import TabletopConfig as TabletopConfig
