"""Progressive growth: stages of training and growing one after the other, from one file."""

from growtool.schedule.file import LoadedSchedule, load_schedule
from growtool.schedule.run import run_schedule
from growtool.schedule.stages import StageRecord

__all__ = ["LoadedSchedule", "StageRecord", "load_schedule", "run_schedule"]
