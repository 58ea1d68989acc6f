"""Mutants: small faults planted in the code, which the tests of that code must notice."""

import ast
import difflib
import json
import os
import random
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ATTACKS = ["library/attacks/test_every_attack.py", "library/attacks/test_planted_weaknesses.py"]
# Modules whose faults would give wrong numbers without an error, and the tests that must notice.
MODULES = {
    "vaecore/_metrics.py": ["library/test_metrics.py"],
    "vaecore/_calibration.py": ["library/test_calibration.py"],
    "vaecore/_noise.py": ["library/test_noise.py"],
    "vaecore/_digest.py": ["library/test_digest.py"],
    "vaecore/_store.py": ["library/test_store.py"],
    "vaecore/_check.py": ["library/test_arguments.py", "library/test_every_function_of_images.py"],
    "vaecore/_calls.py": ["library/test_every_function_of_images.py", "library/attacks/test_every_attack.py"],
    "vaecore/attacks/_attack.py": [*ATTACKS, "library/attacks/test_pgd.py"],
    "vaecore/attacks/_fgsm.py": [*ATTACKS, "library/attacks/test_fgsm.py"],
    "vaecore/attacks/_pgd.py": ["library/attacks/test_pgd.py", ATTACKS[0]],
    "vaecore/attacks/_square.py": ["library/attacks/test_square.py", ATTACKS[0], "library/test_arguments.py"],
    "vaecore/attacks/_detector.py": ["library/attacks/test_detector.py", ATTACKS[0]],
    "vaecore/suite/judging/bound.py": ["suite/judging"],
    "vaecore/suite/judging/verdict.py": ["suite/judging"],
    "vaecore/suite/statistics/estimates.py": ["suite/statistics"],
    "vaecore/suite/statistics/intervals.py": ["suite/statistics"],
    "vaecore/suite/statistics/rank_statistics.py": ["suite/statistics"],
    "vaecore/suite/study/decisions.py": ["suite/study/test_decisions.py"],
    "vaecore/suite/study/plan.py": ["suite/study/test_plan.py"],
    "vaecore/suite/study/tasks.py": ["suite/study/test_tasks.py", "suite/study/test_plan.py"],
}
PARTS = 4  # so that processes share the work
SAMPLE = 2016  # the mutants stay the same until the code changes, so that those which change nothing can be listed
SLOWEST = 90  # seconds that the tests of a mutant may take

mutating, plugins, syntax = (
    pytest.importorskip(f"cosmic_ray.{name}", reason="needs cosmic-ray, which `nox -s campaign` installs")
    for name in ("mutating", "plugins", "ast")
)


def is_text(line):
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def code_of(source):
    """A source's syntax tree without annotations and docstrings: what a fault must change."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [line for line in body if not is_text(line)]
    return ast.dump(tree)


@cache
def operators_of(module):
    """Operators that can change a module, and in how many places each."""
    nodes = [*syntax.ast_nodes(syntax.get_ast((ROOT / module).read_text(encoding="utf-8")))]
    operators = [plugins.get_operator(name) for name in sorted(plugins.operator_names())]
    ready = [operator() for operator in operators if not operator.arguments()]  # others ask for names of variables
    places = {operator: sum(len([*operator.mutation_positions(node)]) for node in nodes) for operator in ready}
    return {operator: number for operator, number in places.items() if number}


def a_mutant(chance, module):
    """A source with one fault, and the lines before and after."""
    source, operators = (ROOT / module).read_text(encoding="utf-8"), operators_of(module)
    while True:
        operator = chance.choice([*operators])
        mutated = mutating.mutate_code(source, operator, chance.randrange(operators[operator]))
        try:
            changed = code_of(mutated) != code_of(source)
        except SyntaxError:
            continue
        if changed:
            lines = [*difflib.unified_diff(source.splitlines(), mutated.splitlines(), n=0, lineterm="")]
            was, becomes = ([line[1:].strip() for line in lines[2:] if line[0] == sign] for sign in "-+")
            return mutated, " ".join(was), " ".join(becomes)


def sample(number):
    """So many mutants: source and tests by module and by lines before and after."""
    chance, mutants = random.Random(f"{SAMPLE} test_mutants_are_caught"), {}  # noqa: S311
    while len(mutants) < number:
        module = chance.choice(sorted(MODULES))
        source, was, becomes = a_mutant(chance, module)
        mutants[module, was, becomes] = [module, source, [f"tests/{test}" for test in MODULES[module]], SLOWEST]
    return mutants


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_mutants_are_caught(part, large, count, tmp_path):
    """The tests of a module fail for each fault in it, but for those that are listed with a reason."""
    if not large and part > 1:
        pytest.skip("two mutants show that they are made and caught: `nox -s campaign` has the others")
    listed = tomllib.loads((HERE / "survivors.toml").read_text(encoding="utf-8"))["survivor"]
    accepted = {(entry["module"], entry["was"], entry["becomes"]): entry["reason"] for entry in listed}
    mutants = dict([*sample(120 if large else PARTS).items()][part::PARTS])
    (tmp_path / "mutants.json").write_text(json.dumps([*mutants.values()]), encoding="utf-8")
    (tmp_path / "copy").mkdir()
    process = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, str(HERE / "mutants.py"), str(ROOT), str(tmp_path / "copy"), str(tmp_path / "mutants.json")],
        stdout=subprocess.PIPE,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path / "copy")},
    )
    outcomes = [json.loads(line) for line in process.stdout.splitlines()]
    lived = [mutant for mutant, (became, _, _) in zip(mutants, outcomes, strict=True) if became == "lived"]
    texts = {mutant: f"{mutant[0]}: `{mutant[1]}` as `{mutant[2]}`" for mutant in lived}
    remarks = [f"{len(mutants) - len(lived)} of {len(mutants)} were caught"]
    remarks += [f"lived: {texts[mutant]}: {accepted[mutant]}" for mutant in lived if mutant in accepted]
    count(
        f"mutants, part {part + 1} of {PARTS}",
        len(mutants),
        [texts[mutant] for mutant in lived if mutant not in accepted],
        remarks,
    )
