"""An estimator that takes its time, and finds in frames of streaming.shade what their number says.

One person is there in 30 frames of 40, elsewhere in each.
"""

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kineme.people.poses import build_pose
from streaming import number_of


@dataclass(frozen=True)
class SlowSettings:
    seconds: float = 0.0


class Slow:
    layout = "coco"
    settings_type: ClassVar = SlowSettings

    def __init__(self, settings):
        self.settings = settings

    def detect(self, frame):
        print("looked", flush=True)
        time.sleep(self.settings.seconds)
        number = number_of(frame)
        if number % 40 >= 30:
            return ()
        joints = np.stack([np.arange(17) * 2.0 + number / 3, np.arange(17) * 5.0 + 10], axis=1)
        return (build_pose(joints, np.full(17, 0.5 + number / 200), score=0.3 + number / 200),)

    def reset(self):
        pass
