"""The compiled half of the package; one stub per submodule lies beside this one."""

from . import controller as controller
from . import envs as envs
from . import errors as errors
from . import gateway as gateway
from . import lp as lp
from . import policy as policy
from . import te as te

__all__ = [
    "__version__",
    "controller",
    "envs",
    "errors",
    "gateway",
    "lp",
    "policy",
    "te",
]

__version__: str
