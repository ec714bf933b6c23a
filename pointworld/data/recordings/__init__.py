"""A user's own recordings: frames over time and a joint log, labelled, as training clips."""

from pointworld.data.recordings.build import LabelConfig as LabelConfig
from pointworld.data.recordings.build import label_moments as label_moments
from pointworld.data.recordings.build import label_recordings as label_recordings
from pointworld.data.recordings.labelled_clip import LabelledClip as LabelledClip
from pointworld.data.recordings.labelled_clip import read_labelled as read_labelled
from pointworld.data.recordings.labelled_clip import write_labelled as write_labelled
from pointworld.data.recordings.windows import Recording as Recording
from pointworld.data.recordings.windows import open_recording as open_recording
