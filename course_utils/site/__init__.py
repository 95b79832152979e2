"""The solved course as a static site: executed lessons, searchable, with no request to any other machine."""

from course_utils.site.build import build_site

__all__ = ["build_site"]
