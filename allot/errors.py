"""Every error raised on purpose.

AllotError
├── InputError            what the user gave cannot work            exit code 2
│   ├── BudgetError       no plan can meet the budget; names the smallest that can
│   ├── DataError         empty, misshapen or non-finite data
│   ├── ModelError        NaN weights, not deterministic, not traceable
│   ├── PlanError         a plan for another network, other weights or an unknown option
│   ├── ArtefactError     a damaged or foreign artefact, a pickle given as weights
│   └── MissingError      a runtime or library that is not installed
├── JobError              the job ran and failed                    exit code 1
│   └── ParityError       the exported file does not compute what was measured
└── NotCertified          no plan is proven within the allowed drop exit code 3
"""


class AllotError(Exception):
    """Base of all; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(AllotError):
    """What the user gave cannot work; says what, where, and what would."""

    exit_code = 2


class BudgetError(InputError):
    """A budget that no plan meets. `smallest` maps each budget's name to what can be reached."""

    def __init__(self, message: str, *, smallest: dict[str, float] | None = None) -> None:
        self.smallest = dict(smallest or {})
        Exception.__init__(self, message)


class DataError(InputError):
    """Empty, misshapen or non-finite data."""


class ModelError(InputError):
    """A network that cannot be measured: NaN weights, random in eval, not traceable."""


class PlanError(InputError):
    """A plan that does not belong to this network, these weights or this version."""


class ArtefactError(InputError):
    """A file or folder that is damaged, foreign or of a kind that is not trusted."""


class MissingError(InputError):
    """A runtime or library that is not installed; says how to install it."""


class JobError(AllotError):
    """The job ran and failed."""


class ParityError(JobError):
    """The exported file does not compute what was measured."""


class NotCertified(AllotError):
    """No plan was proven to stay within the allowed drop; names the nearest."""

    exit_code = 3
