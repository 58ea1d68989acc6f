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

# Kinds of evidence, for `Study.table(condition, of=...)`.
from .study.alarms import RAISED as RAISED
from .study.alarms import all_alarms as all_alarms
from .study.cleaning import ATTACKED as ATTACKED
from .study.cleaning import CLEANING as CLEANING

# Conditions, and kinds of conditions that take a size.
from .study.conditions import AWAY as AWAY
from .study.conditions import CLEAN as CLEAN
from .study.conditions import CONFIDENT as CONFIDENT
from .study.conditions import EVADE as EVADE
from .study.conditions import EVADE_KNOWN as EVADE_KNOWN
from .study.conditions import FGSM as FGSM
from .study.conditions import GAUSSIAN as GAUSSIAN
from .study.conditions import GAUSSIAN_CONFIDENT as GAUSSIAN_CONFIDENT
from .study.conditions import HIDDEN as HIDDEN
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
from .study.decisions import DECISIONS as DECISIONS
from .study.draws import DRAWS as DRAWS
from .study.draws import MANY_DRAWS as MANY_DRAWS
from .study.each_image import Shard as Shard
from .study.levels import LEVELS as LEVELS
from .study.models import Run as Run
from .study.outside import ABROAD as ABROAD
from .study.outside import ALARM_RATE as ALARM_RATE
from .study.outside import HIDDEN_BY as HIDDEN_BY
from .study.outside import HIDING as HIDING
from .study.outside import P_VALUES as P_VALUES
from .study.outside import SCORES as SCORES
from .study.smoothing import CERTIFICATES as CERTIFICATES
from .study.squeezing import SQUEEZING as SQUEEZING
from .study.study import Study as Study
from .study.tables import Table as Table
from .study.yardstick import YARDSTICK as YARDSTICK

# What leaves the house: `Study.claims`.
from .tidy import Tidy as Tidy
