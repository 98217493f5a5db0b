"""Signal propagation in deep networks: what theory predicts, what networks do, how they train."""

__all__ = ["diagnose"]


def __getattr__(name: str):
    """`diagnose`, brought in when it is first asked for: importing one room loads no other."""
    if name == "diagnose":
        from sigprop.diagnosis import diagnose

        return diagnose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
