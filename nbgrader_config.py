"""nbgrader for a class: `solutions/` is released as `notebooks/`; submissions are mended, graded and answered offline.

Run nbgrader in the course's folder. Before a release, `course release --source build/source` makes the source tree
that nbgrader reads. TEACHING.md shows a whole class from nothing to exported grades.
"""

import os
import sys
from pathlib import Path

from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    IgnorePattern,
    LimitOutput,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)

from course_utils.grading.nbgrader_feedback import FeedbackPage
from course_utils.grading.nbgrader_repair import KeepOneScore, RepairSubmission, RunSubmission, SkipDemonstrations

c = get_config()

# nbgrader starts alembic by its bare name: find the one of this environment, also where it is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

c.CourseDirectory.root = str(Path(__file__).resolve().parent)
c.CourseDirectory.course_id = "superposition"
# One folder an assignment; the release is `notebooks/02_toy_superposition/02_toy_superposition.ipynb`. Nothing lies
# beside the sources in build/source, so nothing but the learner's notebook can be copied into the release.
c.CourseDirectory.source_directory = "build/source"
c.CourseDirectory.release_directory = "notebooks"
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "*.py", "feedback"]

c.Autograde.sanitize_preprocessors = [
    RepairSubmission,  # before anything that stops at a damaged notebook
    SkipDemonstrations,
    ClearOutput,
    OverwriteKernelspec,
    OverwriteCells,
    CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    RunSubmission,
    KeepOneScore,  # before the grades are saved
    IgnorePattern,
    LimitOutput,
    SaveAutoGrades,
    AssignLatePenalties,
    CheckCellMetadata,
]
# A check ends loops by itself after its own limit; this ends other cells of a learner's, in seconds.
c.RunSubmission.timeout = 120

c.GenerateFeedback.exporter_class = FeedbackPage
