"""The allocator setting: set where glibc is, refused quietly elsewhere, and harmless when asked for twice."""

import platform
import sys

from course_utils.memory import keep_freed_memory


def test_it_is_set_on_linux_with_glibc_and_only_there():
    glibc = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"
    assert keep_freed_memory() == glibc
    assert keep_freed_memory() == glibc


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory.__wrapped__()
