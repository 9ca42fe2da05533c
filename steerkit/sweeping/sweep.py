"""The main path of a sweep: every run of it planned, then carried out, then compared."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steerkit.artifacts.results import SCHEMA_VERSION as _RESULTS_VERSION
from steerkit.artifacts.rundir import RESULTS
from steerkit.artifacts.sweeps import SWEEP, Sweep, SweepMember, is_sweep, load_sweep, write_sweep
from steerkit.catalog import Catalog
from steerkit.errors import RecipeError, SteerkitError, counted, known_keywords
from steerkit.progress import SILENT, Observer, Stage
from steerkit.recipe.shipped import find_recipe
from steerkit.run import require_places
from steerkit.sweeping.axes import Axis, axes_of, faults, points_of
from steerkit.sweeping.jobs import Crew, Ended, Job, LocalCrew
from steerkit.sweeping.members import Member, plan_members
