"""Tasks: keys follow function, arguments and inputs; what must be there first; what goes to another process."""

import pickle

import pytest
import torch

from vaecore import VAEConfig
from vaecore.suite.study.tasks import Given, OwnFunction, Task, one_thread, run

ONE = Given({"pixels": torch.zeros(2, 3)})


def add(a=0, **parts):
    return {"sum": a + sum(part["sum"] for part in parts.values())}


def other(**_):
    return {}


def task(function=add, stage="draws", title="", parts=None, **arguments):
    return Task(function, arguments, parts or {}, stage, title)


def test_keys_follow_function_arguments_and_inputs_but_no_words():
    assert task(a=1).key == task(a=1, title="another", stage="attacks").key
    tasks = [
        task(),
        task(other),
        *(task(a=value) for value in (1, 1.0, True, "1", None, [1], {"b": 1}, VAEConfig(), VAEConfig(epochs=1))),
        task(b=1),
        *(task(parts={"part": part}) for part in (ONE, task(a=1), task(a=2), (task(a=1),), (), None, OwnFunction(add))),
        task(parts={"of": ONE}),
        *(task(parts={"of": of, "part": part}) for of, part in ((ONE, task(a=1)), (task(a=1), ONE))),
        task(parts={"part": task(parts={"part": ONE})}),
        task(parts={"part": task(a=1, stage="", parts={"part": ONE})}),
    ]
    assert len({one.key for one in tasks}) == len(tasks)


@pytest.mark.parametrize(
    "tensors",
    [
        {"pixels": torch.zeros(3, 2)},
        {"pixels": torch.zeros(2, 3).double()},
        {"pixels": torch.tensor([[0.0, 0, 0], [0, 0, 1e-45]])},
        {"labels": torch.zeros(2, 3)},
        {"pixels": torch.zeros(2, 3), "indices": torch.arange(2)},
    ],
    ids=["shape", "type", "one bit", "name", "more"],
)
def test_keys_of_given_tensors_follow_their_content(tensors):
    assert Given({"pixels": torch.zeros(2, 3)}).key == ONE.key
    assert Given(tensors).key != ONE.key
    assert Given(ONE.tensors, "a digest of them").key != ONE.key


def test_what_must_be_there_first_are_stored_results_and_given_tensors():
    stored, deeper = task(a=1), task(a=2)
    made = task(stage="", parts={"first": deeper, "second": (ONE, None)})
    needs = task(parts={"stored": stored, "made": made, "function": OwnFunction(add), "again": stored}).needs
    assert [need.key for need in needs] == [stored.key, deeper.key, ONE.key]
    assert task(parts={"function": OwnFunction(add)}).local
    assert not task(parts={"made": made}).local


def test_another_process_gets_keys_in_the_place_of_given_tensors():
    large = Given({"sum": torch.ones(100_000)})
    whole = task(a=2, parts={"large": large, "made": task(a=1, stage="", parts={"large": large})})
    key = whole.key
    sent = pickle.dumps(whole)
    assert len(sent) < 10_000
    again = pickle.loads(sent)  # noqa: S301  # our own
    assert again.key == key
    assert run(again, {large.key: large.tensors})["sum"].tolist() == [5.0] * 100_000


@pytest.mark.parametrize("values", [torch.zeros(101)[1:], torch.zeros(10, 10).T], ids=["shifted", "transposed"])
def test_inputs_lie_in_memory_as_torch_lays_them_out(values):
    """Wherever they come from: how products are rounded depends on it."""

    def look(part):
        return {"aligned": part["values"].data_ptr() % 64 == 0 and part["values"].is_contiguous()}

    given = Given({"values": values})
    assert run(Task(look, {}, {"part": given}), {given.key: given.tensors})["aligned"]


def test_threads_are_put_back_after_an_error():
    def within():
        with one_thread():
            raise KeyError(torch.get_num_threads())

    threads = torch.get_num_threads()
    with pytest.raises(KeyError, match="1"):
        within()
    assert torch.get_num_threads() == threads
