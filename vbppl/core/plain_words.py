"""JAX's and NumPy's errors in plain words: what, in which line of the user's, and how to mend it."""

from __future__ import annotations

import os
import re
import traceback
import types
from pathlib import Path

import jax
import numpy as np

from vbppl.core.errors import ModelError

JAX = (os.path.dirname(jax.__file__), os.path.dirname(np.__file__))
HOUSES = (*JAX, str(Path(__file__).parents[1]))

NO_NUMBER = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)
TOO_LARGE = "Number ids by np.unique(ids, return_inverse=True), pass counts and times as floats, or set jax_enable_x64."
COUNT = "Count outside the model, and pass the number: my_model(k, n=len(np.unique(k)))."
SIZE = "Compute sizes outside the model, and pass them as ints: my_model(k, n=int(k.max()) + 1)."

IN_PLACE = "Write x = x.at[i].set(value), which gives a new array; or build it by jnp.stack or jnp.where."
LISTS = re.compile(
    r"'(list|tuple)' and '|and '(list|tuple)'$|got <class '(list|tuple)'>|non-tuple sequence|multiply sequence"
    r"|concatenate (list|tuple) \(not \"(?!str|list|tuple)|(list|tuple) indices must be integers or slices, not (?!str)"
    r"|'(list|tuple)' object has no attribute '(shape|ndim|dtype|size|T|sum|mean|std|var|min|max|astype|reshape|at)'$"
)

# What is met in the text of an error, or in the line; what it means, with what was found; how to mend it.
MEANINGS = (
    (r"unhashable type: '\w*Tracer", "a set or a dictionary met a value that has no number yet", COUNT),
    (
        r"Shapes must be 1D sequences of concrete values|shape=.* must be concrete",
        "a shape met a size that has no number yet",
        SIZE,
    ),
    (
        r"contracting dimensions to have the same shape, got \((\d+).*?\) and \((\d+).*?\)",
        "a product of arrays sums over {} numbers of the one and {} of the other",
        "Give a matrix as many columns as the vector has entries; x.T is x transposed.",
    ),
    (
        r"incompatible shapes for broadcasting: (?:shapes=)?\[?(.*?)\]?\.?$",
        "arrays of the shapes {} do not broadcast",
        "Make them equal from the right, or add a dimension of length 1: x[:, None].",
    ),
    (r"immutable and do not support in-place", "an array was assigned to in place", IN_PLACE),
    (r"Indexer must have integer", "an index holds floats", "Make it whole: a[g.astype(int)]."),
    (
        r"string indexing|indexing.*'(\w+)'",
        "an array is asked for a column by name",
        "Pass columns by themselves, my_model(df['x'], df['y']), or all of them as a dict: {'x': df['x']}.",
    ),
    (
        r"unexpected tracer",
        "a value of another run was used, which was kept outside the model",
        "Let values leave a model by return or by vb.deterministic; put none into lists or globals.",
    ),
    (
        r"Too many indices: array is (\d+)-dimensional, but (\d+) were",
        "an array of dimension {} is given {} indices",
        "Leave one out, or add a dimension: y[:, None].",
    ),
    (
        r"reshape array of shape (\(.*?\)).* into shape (\(.*?\))",
        "an array of shape {} cannot take the shape {}",
        "Let both hold as many numbers; -1 stands for the length that is left over: y.reshape(-1, 2).",
    ),
    (
        r"Cannot concatenate arrays .*got (.*?)\.?$",
        "arrays of the shapes {} cannot be joined",
        "Let them differ along the axis= of joining alone.",
    ),
    (
        r"inhomogeneous shape",
        "the rows of a list differ in length",
        "Pad them to one length, and mask what is padding.",
    ),
    (r"[Pp]ython int(?:eger)? (\d+) (?:is )?(?:too large|out of bounds)", "{} is beyond 32 bits", TOO_LARGE),
    (
        r"not a valid JAX|Error interpreting argument",
        "JAX was given something that is no number",
        "Pass numbers, or arrays of them; encode words with np.unique(words, return_inverse=True).",
    ),
)


def in_plain_words(error: Exception, after: str | None) -> ModelError | None:
    """What an error of JAX or NumPy means that was raised in a model after the site `after`; None for others."""
    where = f", after site '{after}'" if after else ""
    line, text = own_line(error), str(error).strip().partition("\n")[0]
    if isinstance(error, (TypeError, AttributeError)) and LISTS.search(text):
        mend = "Pass an array, my_model(np.asarray(x)), which is data too; or write jnp.asarray(x) in the line."
        return ModelError(f"a list stands where an array is meant{where}.", details=f"{line}\n{text}", mend=mend)
    if isinstance(error, NO_NUMBER) or (type(error) is ValueError and isinstance(error.__cause__, NO_NUMBER)):
        what, mend = _no_number(error, line)
        return ModelError(f"{what} met a value that has no number yet{where}.", details=line or text, mend=mend)
    if isinstance(error, ModelError) or not _is_theirs(error):
        return None
    for pattern, what, mend in MEANINGS:
        if found := re.search(pattern, text, re.IGNORECASE):
            return ModelError(what.format(*found.groups()) + f"{where}.", details=line, mend=mend)
    mend = "Try the line by itself on arrays of these shapes; my_model(...).shapes() prints those of the sites."
    return ModelError(f"JAX refuses what a line asks{where}.", details=f"{line}\n{text}".strip(), mend=mend)


def _no_number(error: Exception, line: str) -> tuple[str, str]:
    if re.search(r"\b(unique|bincount|nonzero|flatnonzero)\(", line):
        return "a count of values", COUNT
    if isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        return (
            "a selection of rows",
            "Select outside the model, y[y > 0]; or let some rows not count: dist.Normal(...).mask(y > 0).",
        )
    if isinstance(error, jax.errors.TracerBoolConversionError):
        return "Python's `if`, `while`, `and` or `not`", "Write jnp.where(condition, a, b), or jax.lax.cond."
    if isinstance(error.__cause__, NO_NUMBER):  # NumPy's own error of an assignment
        return "NumPy", f"Begin with a jnp.zeros(n). {IN_PLACE}"
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "NumPy", "Use jax.numpy: jnp.exp(x) for np.exp(x), jnp.asarray(table)[i] for table[i]."
    if re.search(r"\bmath\.\w+\(", line):
        return "the module math", "Use jax.numpy: jnp.exp(x) for math.exp(x)."
    if re.search(r"\bu?int\d+\[|TracerIntegerConversion", f"{type(error).__name__} {error}"):
        return "a size or another Python int", SIZE
    return "a Python number", "Leave out float(): JAX computes with arrays of one number as well."


def own_line(error: BaseException) -> str:
    """The innermost line that is neither ours nor JAX's nor NumPy's, with its place; "" if there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(HOUSES)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _is_theirs(error: BaseException) -> bool:
    """Was it raised in JAX or NumPy? JAX leaves its own frames out, and says so in a note."""
    frames = traceback.extract_tb(error.__traceback__)
    is_filtered = any("JAX_TRACEBACK_FILTERING" in note for note in getattr(error, "__notes__", ()))
    is_filtered |= bool(re.search(r"Tracer\b", str(error)))
    return is_filtered or (bool(frames) and frames[-1].filename.startswith(JAX)) or "JAX" in type(error).__module__


def brief(error: ModelError) -> ModelError:
    """The error with the lines of a traceback that are the user's own, which tell where in a model it was raised."""
    kept, tb = [], error.__traceback__
    while tb is not None:
        if not tb.tb_frame.f_code.co_filename.startswith(HOUSES):
            kept.append(tb)
        tb = tb.tb_next
    chain = None
    for each in reversed(kept):
        chain = types.TracebackType(chain, each.tb_frame, each.tb_lasti, each.tb_lineno)
    error.__notes__ = [note for note in getattr(error, "__notes__", ()) if "JAX" not in note and set(note) != {"-"}]
    return error.with_traceback(chain)
