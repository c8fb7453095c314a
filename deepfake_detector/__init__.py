"""Deepfake Detector: is a recorded voice human or machine, where in the clip, and why."""

from .audio import AudioError
from .detector import Detector, Verdict
from .model import CheckpointError

__all__ = ["AudioError", "CheckpointError", "Detector", "Verdict"]
