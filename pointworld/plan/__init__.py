"""Planning with the world model: action spaces, samplers, planners, costs and dynamics."""

from pointworld.plan.actions import Actions as Actions
from pointworld.plan.actions import ActionSpace as ActionSpace
from pointworld.plan.actions import Body as Body
from pointworld.plan.actions import JointPathSpace as JointPathSpace
from pointworld.plan.actions import PathLimits as PathLimits
from pointworld.plan.actions import ToolPathSpace as ToolPathSpace
from pointworld.plan.dynamics import ConstantMotion as ConstantMotion
from pointworld.plan.dynamics import Dynamics as Dynamics
from pointworld.plan.dynamics import PlanState as PlanState
from pointworld.plan.dynamics import make_problem as make_problem
from pointworld.plan.model_dynamics import ModelDynamics as ModelDynamics
from pointworld.plan.planners import CEM as CEM
from pointworld.plan.planners import ICEM as ICEM
from pointworld.plan.planners import MPPI as MPPI
from pointworld.plan.planners import Gradient as Gradient
from pointworld.plan.planners import Nevergrad as Nevergrad
from pointworld.plan.planners import Planner as Planner
from pointworld.plan.problem import PlanResult as PlanResult
from pointworld.plan.problem import Problem as Problem
from pointworld.plan.problem import shift_plan as shift_plan
from pointworld.plan.samplers import ColoredNoise as ColoredNoise
from pointworld.plan.samplers import Noise as Noise
from pointworld.plan.samplers import SplineNoise as SplineNoise
from pointworld.plan.samplers import WhiteNoise as WhiteNoise
from pointworld.plan.trajectory import Trajectory as Trajectory
