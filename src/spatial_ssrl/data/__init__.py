"""Streams of questions for training and held-out evaluation."""

from spatial_ssrl.data.cold_start import Answers, ColdStartAnswers, answer_text
from spatial_ssrl.data.datamodule import HeldOutSettings, PretextDataModule
from spatial_ssrl.data.dataset import QuestionDataset

__all__ = [
    "Answers",
    "ColdStartAnswers",
    "HeldOutSettings",
    "PretextDataModule",
    "QuestionDataset",
    "answer_text",
]
