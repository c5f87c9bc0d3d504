"""See `traflux`."""

__all__ = [
    "_panic",
]

def _panic(message: str) -> None: ...
