"""Streams of questions for training and held-out evaluation."""

from spatial_ssrl.data.cold_start import Answers, ColdStartAnswers, answer_text
from spatial_ssrl.data.curated import CuratedQuestions
from spatial_ssrl.data.datamodule import HeldOutSettings, PretextDataModule
from spatial_ssrl.data.dataset import QuestionDataset

__all__ = [
    "Answers",
    "ColdStartAnswers",
    "CuratedQuestions",
    "HeldOutSettings",
    "PretextDataModule",
    "QuestionDataset",
    "answer_text",
]
