"""What goes wrong, in classes that a caller can act on.

Every class has the stable ``code`` of the error in Rust and says whether the same call may succeed later with nothing
changed here (``is_transient``).
"""

from __future__ import annotations


class TrafluxError(Exception):
    """Base of everything that Traflux raises.

    Attributes
    ----------
    code
        Stable name, such as ``"gateway_setting"``; the label of metrics and the same in every language.
    is_transient
        Whether the same call may succeed later with nothing changed here.
    """

    code: str = "traflux"
    is_transient: bool = False

    def __init__(self, message: str = "", code: str = "traflux", is_transient: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_transient = is_transient


class InputError(TrafluxError, ValueError):
    """A value does not have the form that is asked for."""


class ConfigError(TrafluxError, ValueError):
    """A configuration cannot mean anything; the message has the path of the key."""


class TopologyError(TrafluxError, ValueError):
    """A topology does not hold together."""


class PlanError(TrafluxError, ValueError):
    """A plan cannot be expressed."""


class NetworkError(TrafluxError, ValueError):
    """A network, a matrix, a routing or one of their files does not hold together."""


class ObserveError(TrafluxError):
    """Metrics could not be had."""


class EstimateError(TrafluxError):
    """Telemetry cannot be turned into an estimate."""


class EncodeError(TrafluxError):
    """A state cannot be encoded."""


class PolicyError(TrafluxError):
    """A policy cannot act, or a checkpoint cannot be read."""


class SolveError(TrafluxError):
    """A problem cannot be solved, or is none."""


class ActuateError(TrafluxError):
    """A plan could not be put in force."""


class SimulationError(TrafluxError):
    """A simulation or an environment cannot go on."""


class StoreError(TrafluxError):
    """A file of saved state cannot be read or written."""


class GatewayError(TrafluxError, ValueError):
    """A plan or a setting of the request engine cannot mean anything."""


class InternalPanic(TrafluxError):
    """A fault of Traflux itself; please report it."""
