"""Solvers: what plan does the least harm within the budgets, and how good any could be."""

from allot.solve.milp import Solution as Solution
from allot.solve.milp import smallest as smallest
from allot.solve.milp import solve as solve
from allot.solve.rows import Row as Row
