"""Costs, one kind per file, and their weighted sum."""

from pointworld.plan.costs.approach import Approach as Approach
from pointworld.plan.costs.base import Cost as Cost
from pointworld.plan.costs.base import CostSum as CostSum
from pointworld.plan.costs.base import Reduction as Reduction
from pointworld.plan.costs.base import Term as Term
from pointworld.plan.costs.base import reduce_time as reduce_time
from pointworld.plan.costs.collision import SceneCollision as SceneCollision
from pointworld.plan.costs.infeasible import Infeasible as Infeasible
from pointworld.plan.costs.keep_still import KeepStill as KeepStill
from pointworld.plan.costs.learned import Energy as Energy
from pointworld.plan.costs.learned import LearnedCost as LearnedCost
from pointworld.plan.costs.path_length import PathLength as PathLength
from pointworld.plan.costs.reach import Reach as Reach
from pointworld.plan.costs.smoothness import Smoothness as Smoothness
from pointworld.plan.costs.strain import Strain as Strain
from pointworld.plan.costs.task_points import TaskPoints as TaskPoints
from pointworld.plan.costs.task_points import TaskSurface as TaskSurface
from pointworld.plan.costs.uncertainty import Uncertainty as Uncertainty
