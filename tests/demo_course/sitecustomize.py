"""On PYTHONPATH, this adds the demo lesson to the registry of every Python process a test starts."""

from pathlib import Path

import course_utils.exercises

course_utils.exercises.__path__.append(str(Path(__file__).parent))
