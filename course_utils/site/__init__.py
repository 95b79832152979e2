"""The solved course as a static site: executed lessons, searchable, with no request to any other machine."""

from course_utils.site.build import build_site
from course_utils.site.execute import LessonError

__all__ = ["LessonError", "build_site"]
