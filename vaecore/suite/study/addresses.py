"""Where a cluster is, as a text. Imports no torch, so that a mistake is told at once."""

from pathlib import Path

LOCAL = "local:"  # before a number: so many processes of this machine


def check_address(text: str) -> None:
    """Raise ValueError unless a text names a scheduler, a scheduler file that exists, or `local:N`."""
    number = text.removeprefix(LOCAL)
    if number != text:
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"--cluster local:N must have 1 process or more; got {text}")
    elif "://" not in text and not Path(text).is_file():
        raise ValueError(
            "--cluster must be a scheduler's address (tcp://host:8786, tls://...), a scheduler file that exists, or"
            f" local:N; got {text}"
        )
