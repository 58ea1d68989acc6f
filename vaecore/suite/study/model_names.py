"""What `--vae` and `--classifier` may name. Imports no torch."""

from pathlib import Path

from vaecore.toolkit import is_named

_PICKLED = (".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")


def names_attribute(text: str, kind: str) -> bool:
    """Whether an option names an attribute, `package.module:attribute`, and not a file that vaecore saved.

    kind: "vae" or "classifier". Raises ValueError where it is neither.
    """
    if is_named(text):
        return True
    if not Path(text).is_file():
        raise ValueError(f"--{kind} must be package.module:attribute or a file that exists; got {text}")
    if text.lower().endswith(_PICKLED):
        raise ValueError(
            f"--{kind} must be a file that vaecore saved; {text} is a pickle or TorchScript by its name, which can run"
            f" code and is never loaded (load it in a module of your own, and give that: --{kind} my_module:model)"
        )
    return False
