"""The world model around the backbone: features, normalisation, heads, checkpoints, long horizons."""

from pointworld.model.checkpoint_io import load_checkpoint as load_checkpoint
from pointworld.model.checkpoint_io import save_checkpoint as save_checkpoint
from pointworld.model.inputs import ModelInputs as ModelInputs
from pointworld.model.inputs import ModelOutputs as ModelOutputs
from pointworld.model.inputs import collate as collate
from pointworld.model.load import bundled_checkpoints as bundled_checkpoints
from pointworld.model.load import find_checkpoint as find_checkpoint
from pointworld.model.load import load as load
from pointworld.model.predictor import DynamicsPredictor as DynamicsPredictor
from pointworld.model.released_checkpoint import convert_released as convert_released
from pointworld.model.released_checkpoint import read_released as read_released
from pointworld.model.rollout import Precision as Precision
from pointworld.model.spec import ModelSpec as ModelSpec
from pointworld.model.world_model import WorldModel as WorldModel
