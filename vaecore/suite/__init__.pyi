# What a test of a claim is given.
from .plugin.conclusion import Conclusion as Conclusion

# Estimates over runs and images.
from .statistics.estimates import Estimate as Estimate
from .statistics.estimates import absolute as absolute
from .statistics.estimates import aurc as aurc
from .statistics.estimates import auroc as auroc
from .statistics.estimates import auroc_of_groups as auroc_of_groups
from .statistics.estimates import difference as difference
from .statistics.estimates import group_mean_ratio as group_mean_ratio
from .statistics.estimates import group_mean_step as group_mean_step
from .statistics.estimates import mean as mean
from .statistics.estimates import ratio as ratio
from .statistics.estimates import smooth as smooth
from .statistics.estimates import spearman as spearman
from .statistics.estimates import spearman_within as spearman_within

# Conditions, and kinds of conditions that take a size.
from .study.conditions import AWAY as AWAY
from .study.conditions import CLEAN as CLEAN
from .study.conditions import CONFIDENT as CONFIDENT
from .study.conditions import EVADE as EVADE
from .study.conditions import EVADE_KNOWN as EVADE_KNOWN
from .study.conditions import EVADE_MAGNET as EVADE_MAGNET
from .study.conditions import FGSM as FGSM
from .study.conditions import GAUSSIAN as GAUSSIAN
from .study.conditions import GAUSSIAN_CONFIDENT as GAUSSIAN_CONFIDENT
from .study.conditions import HIDDEN as HIDDEN
from .study.conditions import HIDDEN_BY as HIDDEN_BY
from .study.conditions import HOME as HOME
from .study.conditions import INSIDE as INSIDE
from .study.conditions import JOINT as JOINT
from .study.conditions import LBFGS as LBFGS
from .study.conditions import MIX as MIX
from .study.conditions import NOISY as NOISY
from .study.conditions import PGD as PGD
from .study.conditions import PURIFIED as PURIFIED
from .study.conditions import ROTATED as ROTATED
from .study.conditions import SIGN as SIGN
from .study.conditions import SMOOTHED as SMOOTHED
from .study.conditions import UNIFORM as UNIFORM
from .study.conditions import WORST_CASE as WORST_CASE
from .study.conditions import Condition as Condition

# The study, its tables and models; these import torch.
from .study.each_image import Shard as Shard

# Kinds of evidence, for `Study.table(condition, of=...)`, and alarms among their columns.
from .study.kinds import ABROAD as ABROAD
from .study.kinds import ALARM_RATE as ALARM_RATE
from .study.kinds import ATTACKED as ATTACKED
from .study.kinds import CERTIFICATES as CERTIFICATES
from .study.kinds import CLEANING as CLEANING
from .study.kinds import DECISIONS as DECISIONS
from .study.kinds import DRAWS as DRAWS
from .study.kinds import HIDING as HIDING
from .study.kinds import LEVELS as LEVELS
from .study.kinds import MANY_DRAWS as MANY_DRAWS
from .study.kinds import P_VALUES as P_VALUES
from .study.kinds import RAISED as RAISED
from .study.kinds import SCORES as SCORES
from .study.kinds import SQUEEZING as SQUEEZING
from .study.kinds import YARDSTICK as YARDSTICK
from .study.kinds import all_alarms as all_alarms
from .study.models import Run as Run
from .study.study import Study as Study
from .study.tables import Table as Table

# What leaves the house: `Study.claims`.
from .tidy import Tidy as Tidy
