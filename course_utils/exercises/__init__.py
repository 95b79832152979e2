"""The registry of exercises: `get("02.3")`, `all()`, `for_lesson("02")`. A lesson's module is imported when it is first needed."""

from __future__ import annotations

import builtins
import functools
import importlib
import pkgutil

from course_utils.grading.exercise import Exercise, Lesson, Task


def lesson_numbers() -> list[str]:
    """Numbers of the lessons that have exercises, in order: `["01", "02", ...]`."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name.removeprefix("lesson_") for name in names if name.startswith("lesson_"))


@functools.cache
def get_lesson(number: str) -> Lesson:
    """A lesson with its exercises. Unknown numbers raise a KeyError that lists the known ones."""
    if number not in lesson_numbers():
        raise KeyError(f"there is no lesson {number!r}; lessons with exercises: {', '.join(lesson_numbers())}")
    return importlib.import_module(f"course_utils.exercises.lesson_{number}").lesson


def for_lesson(number: str) -> list[Exercise]:
    """The exercises of one lesson, in order."""
    return list(get_lesson(number).exercises)


def get(exercise_id: str) -> Exercise:
    """The exercise with an id such as `"02.3"`. Unknown ids raise a KeyError that says which ids there are."""
    number = str(exercise_id).split(".")[0]
    exercises = for_lesson(number)
    for exercise in exercises:
        if exercise.id == exercise_id:
            return exercise
    known = ", ".join(exercise.id for exercise in exercises)
    raise KeyError(f"there is no exercise {exercise_id!r}; lesson {number} has {known}")


def get_task(task_id: str) -> Task:
    """The hand-graded task with an id such as `"09.r1"`. Unknown ids raise a KeyError that says which ids there are."""
    tasks = get_lesson(str(task_id).split(".")[0]).tasks
    for task in tasks:
        if task.id == task_id:
            return task
    known = ", ".join(task.id for task in tasks) or "none"
    raise KeyError(f"there is no hand-graded task {task_id!r}; that lesson has {known}")


def all() -> builtins.list[Exercise]:
    """Every exercise of the course, in order."""
    return [exercise for number in lesson_numbers() for exercise in for_lesson(number)]
