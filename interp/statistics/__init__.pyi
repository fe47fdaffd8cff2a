from .bootstrap import FEWEST_UNITS as FEWEST_UNITS
from .bootstrap import LEVEL as LEVEL
from .bootstrap import RESAMPLES as RESAMPLES
from .bootstrap import bootstrap_interval as bootstrap_interval
from .bootstrap import interval_columns as interval_columns
from .bootstrap import p_above as p_above
from .bootstrap import percentile_interval as percentile_interval
from .bootstrap import pooled_freedom as pooled_freedom
from .bootstrap import resampling_weights as resampling_weights
from .bootstrap import skewed_interval as skewed_interval
from .bootstrap import unit_count as unit_count
from .bootstrap import weighted_means as weighted_means
from .contrast import Contrast as Contrast
from .contrast import effective_number as effective_number
from .contrast import unit_numbers as unit_numbers
from .crossfit import MINIMUM_UNITS as MINIMUM_UNITS
from .crossfit import InnerProducts as InnerProducts
from .crossfit import Means as Means
from .crossfit import class_means as class_means
from .crossfit import exact_mean as exact_mean
from .crossfit import finite as finite
from .crossfit import inner_products as inner_products
from .crossfit import sums_by_unit as sums_by_unit
from .estimates import UNLIMITED as UNLIMITED
from .estimates import Draws as Draws
from .estimates import Estimate as Estimate
from .estimates import mean_of as mean_of
from .intervals import Confidence as Confidence
from .intervals import Estimates as Estimates
from .intervals import Layers as Layers
from .intervals import fisher_interval as fisher_interval
from .intervals import fisher_z as fisher_z
from .intervals import last_accepted as last_accepted
from .intervals import normal_quantile as normal_quantile
from .nulls import covariance_matched_overlaps as covariance_matched_overlaps
from .nulls import isotropic_cosine as isotropic_cosine
from .nulls import isotropic_overlap as isotropic_overlap
from .nulls import permutation_p_values as permutation_p_values
from .nulls import permuted_weights as permuted_weights
from .nulls import shuffled_within as shuffled_within
from .nulls import standardised as standardised
from .nulls import studentised_products as studentised_products
from .proportions import auc_interval as auc_interval
from .proportions import auc_of as auc_of
from .proportions import difference_bounds as difference_bounds
from .proportions import effective_share as effective_share
from .proportions import paired_correlation as paired_correlation
from .proportions import rate_of as rate_of
from .proportions import share_difference as share_difference
from .proportions import share_of as share_of
from .proportions import share_ratio_bounds as share_ratio_bounds
from .reliability import Bases as Bases
from .reliability import Counts as Counts
from .reliability import Vectors as Vectors
from .reliability import cosines_of_halves as cosines_of_halves
from .reliability import error_degrees as error_degrees
from .reliability import overlaps_of_halves as overlaps_of_halves
from .reliability import split_half_reliability as split_half_reliability
from .rows import Axes as Axes
from .rows import Coordinates as Coordinates
from .rows import centring_matrix as centring_matrix
from .rows import coordinates_of as coordinates_of
from .rows import in_d_model as in_d_model
from .rows import kinds_of_units as kinds_of_units
from .rows import labelled_weights as labelled_weights
from .rows import layer_names as layer_names
from .rows import principal_axes as principal_axes
from .rows import shrunk_covariance as shrunk_covariance
from .rows import unit as unit

__all__ = [
    "FEWEST_UNITS",
    "LEVEL",
    "MINIMUM_UNITS",
    "RESAMPLES",
    "UNLIMITED",
    "Axes",
    "Bases",
    "Confidence",
    "Contrast",
    "Coordinates",
    "Counts",
    "Draws",
    "Estimate",
    "Estimates",
    "InnerProducts",
    "Layers",
    "Means",
    "Vectors",
    "auc_interval",
    "auc_of",
    "bootstrap_interval",
    "centring_matrix",
    "class_means",
    "coordinates_of",
    "cosines_of_halves",
    "covariance_matched_overlaps",
    "difference_bounds",
    "effective_number",
    "effective_share",
    "error_degrees",
    "exact_mean",
    "finite",
    "fisher_interval",
    "fisher_z",
    "in_d_model",
    "inner_products",
    "interval_columns",
    "isotropic_cosine",
    "isotropic_overlap",
    "kinds_of_units",
    "labelled_weights",
    "last_accepted",
    "layer_names",
    "mean_of",
    "normal_quantile",
    "overlaps_of_halves",
    "p_above",
    "paired_correlation",
    "percentile_interval",
    "permutation_p_values",
    "permuted_weights",
    "pooled_freedom",
    "principal_axes",
    "rate_of",
    "resampling_weights",
    "share_difference",
    "share_of",
    "share_ratio_bounds",
    "shrunk_covariance",
    "shuffled_within",
    "skewed_interval",
    "split_half_reliability",
    "standardised",
    "studentised_products",
    "sums_by_unit",
    "unit",
    "unit_count",
    "unit_numbers",
    "weighted_means",
]
