"""LeJEPA pretraining of image encoders, and linear probes of their features."""

from pointworld.train.jepa.crops import CropConfig as CropConfig
from pointworld.train.jepa.images import read_images as read_images
from pointworld.train.jepa.loop import PretrainConfig as PretrainConfig
from pointworld.train.jepa.loop import pretrain as pretrain
from pointworld.train.jepa.sigreg import lejepa_loss as lejepa_loss
from pointworld.train.jepa.sigreg import sigreg as sigreg
