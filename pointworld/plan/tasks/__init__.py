"""Tasks in simulation: eight families of scenes with goals, the judge, what is seen of them, and pushes by rule."""

from pointworld.plan.tasks.draw import TASKS as TASKS
from pointworld.plan.tasks.make import make_task as make_task
from pointworld.plan.tasks.task import Judge as Judge
from pointworld.plan.tasks.task import Task as Task
from pointworld.plan.tasks.task import Verdict as Verdict
from pointworld.plan.tasks.task import worst as worst
