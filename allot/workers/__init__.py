"""Workers: plans measured by many processes or machines; the answers are those of one.

What goes out is a plan as numbers, what comes back one number per sample, so a cluster's network
carries next to nothing: every worker makes the task itself and maps the bank from disk.
"""

from allot.workers.connect import connect as connect
from allot.workers.distributed import Distributed as Distributed
from allot.workers.order import Factory as Factory
from allot.workers.order import Order as Order
from allot.workers.order import order as order
