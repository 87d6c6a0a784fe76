"""Training methods by name, one per file: the views of a sample, and a loss of their features. A
new one is a frozen dataclass that satisfies `cosmos_core.types.Method`, and one entry here."""

from collections.abc import Callable

from cosmos_core.methods.clip import ClipMethod
from cosmos_core.methods.cosmos import CosmosMethod
from cosmos_core.methods.silc import SilcMethod
from cosmos_core.methods.slip import SlipMethod
from cosmos_core.types import Method

METHODS: dict[str, Callable[[], Method]] = {
    "clip": ClipMethod,
    "slip": SlipMethod,
    "silc": SilcMethod,
    "cosmos": CosmosMethod,
}
