"""What tests of sagas and of stores are made with. Only `conformance` needs pytest."""

from saga_testing.checking import SagaCheckError, check_saga
from saga_testing.clock import ManualClock
from saga_testing.environment import SagaEnv, saga_env
from saga_testing.faults import InjectedError
from saga_testing.faulty import Fault, FaultyStore
from saga_testing.memory import MemoryStore
from saga_testing.report import CheckReport, Finding

__all__ = [
    "CheckReport",
    "Fault",
    "FaultyStore",
    "Finding",
    "InjectedError",
    "ManualClock",
    "MemoryStore",
    "SagaCheckError",
    "SagaEnv",
    "check_saga",
    "saga_env",
]
