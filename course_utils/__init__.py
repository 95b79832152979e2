"""The course on superposition and sparse autoencoders: `from course_utils import check, hint, progress, solution`."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["check", "hint", "progress", "reset", "solution"]

if TYPE_CHECKING:
    from course_utils.notebook import check, hint, progress, reset, solution


def __getattr__(name: str) -> Any:
    if name in __all__:  # loaded on first use, so that importing course_utils stays quick
        from course_utils import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module 'course_utils' has no attribute {name!r}")
