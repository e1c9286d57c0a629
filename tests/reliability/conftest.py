"""The fixtures that files of whole runs share."""

from distributed.small_runs import data as data
