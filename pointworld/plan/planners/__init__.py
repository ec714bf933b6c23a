"""Planners: one shared loop, five ways to learn from the costs."""

from pointworld.plan.planners.cem import CEM as CEM
from pointworld.plan.planners.cem import ICEM as ICEM
from pointworld.plan.planners.gradient import Gradient as Gradient
from pointworld.plan.planners.loop import Planner as Planner
from pointworld.plan.planners.mppi import MPPI as MPPI
from pointworld.plan.planners.mppi import path_integral_weights as path_integral_weights
from pointworld.plan.planners.nevergrad import Nevergrad as Nevergrad
