import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tersor.structure.units import Units

EDGES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=40)


def slow_classes(count: int, edges: list[tuple[int, int]]) -> list[set[int]]:
    """By merging sets; edges with atom 0 do not merge."""
    classes = [{i} for i in range(count)]
    for a, b in edges:
        if a and b:
            merged = next(c for c in classes if a in c) | next(c for c in classes if b in c)
            classes = [c for c in classes if not c & merged] + [merged]
    return classes


@given(st.lists(EDGES, max_size=4))
def test_classes_are_those_of_sets(batches: list[list[tuple[int, int]]]) -> None:
    units = Units()
    units.fresh(20)
    for edges in batches:
        pairs = np.array(edges, np.int64).reshape(-1, 2)
        units.unite(pairs[:, 0], pairs[:, 1], "it meets zero")
    every = [edge for edges in batches for edge in edges]
    expected = slow_classes(21, every)
    classes = units.classes()
    for i in range(21):
        assert {j for j in range(21) if classes.roots[j] == classes.roots[i]} == next(c for c in expected if i in c)
    touched = {a + b for a, b in every if (a == 0) != (b == 0)}
    for i in range(1, 21):
        frozen = bool(next(c for c in expected if i in c) & touched)
        assert (classes.why[classes.roots[i]] > 0) == frozen


def test_the_first_reason_of_a_class_stays() -> None:
    units = Units()
    a = units.fresh(3)
    units.freeze(a[:1], "first")
    units.freeze(a[1:2], "second")
    units.unite(a[:1], a[1:2], "")
    classes = units.classes()
    assert classes.reasons[classes.why[classes.roots[a[1]]]] == "first"
    assert classes.why[classes.roots[a[2]]] == 0


def test_a_split_settles_on_the_longest_dimension() -> None:
    for shape, classes in (((2, 3), 3), ((3, 2), 3), ((2, 2, 5), 5)):
        units = Units()
        units.splits.append(units.fresh(int(np.prod(shape))).reshape(shape))
        units.settle_splits()
        assert len(np.unique(units.find(units.splits[0]))) == classes


def test_a_split_that_is_settled_stays() -> None:
    units = Units()
    atoms = units.fresh(6).reshape(2, 3)
    units.unite(atoms[:, :1], atoms, "")
    units.splits.append(atoms)
    units.settle_splits()
    assert len(np.unique(units.find(atoms))) == 2
