"""What tests of sagas and of stores are made with. Only `conformance` needs pytest."""

from saga_testing.clock import ManualClock
from saga_testing.faulty import Fault, FaultyStore
from saga_testing.memory import MemoryStore

__all__ = ["Fault", "FaultyStore", "ManualClock", "MemoryStore"]
