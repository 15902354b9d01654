import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ptrnet_impl import TASKS, GeometryDataset, collate, generate, read_points, read_tsplib, unit_square
from ptrnet_impl.data import read_vinyals_file, write_vinyals_file
from ptrnet_impl.tours import held_karp

# Two problems of TSPLIB, whose optimal tours are known to be 3323 and 6859 long
BURMA14 = """NAME: burma14
TYPE: TSP
COMMENT: 14-Staedte in Burma (Zaw Win)
DIMENSION: 14
EDGE_WEIGHT_TYPE: GEO
EDGE_WEIGHT_FORMAT: FUNCTION
DISPLAY_DATA_TYPE: COORD_DISPLAY
NODE_COORD_SECTION
   1  16.47       96.10
   2  16.47       94.44
   3  20.09       92.54
   4  22.39       93.37
   5  25.23       97.24
   6  22.00       96.05
   7  20.47       97.02
   8  17.20       96.29
   9  16.30       97.38
  10  14.05       98.12
  11  16.53       97.38
  12  21.52       95.59
  13  19.41       97.13
  14  20.09       94.55
EOF
"""


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_the_exact_answers(task):
    for n in (TASKS[task].least, 7):
        points, targets = generate(task, n, 20, 0)
        assert points.shape == (20, n, TASKS[task].input_dim)
        assert 0 <= points.min() <= points.max() < 1
        for instance, row in zip(points, targets, strict=True):
            answer = row[row >= 0]
            assert answer.tolist() == TASKS[task].solve(instance).reshape(-1).tolist()
            assert len(answer) + TASKS[task].end_symbol <= TASKS[task].longest(n)
            assert (row[len(answer) :] == -1).all()
            assert TASKS[task].score(instance, answer, answer) == 1
        assert not TASKS[task].end_symbol or (targets[:, -1] == -1).all()


def test_long_tours_have_labels_near_the_optimum():
    points, targets = generate("tsp", 12, 20, 0)
    measured = TASKS["tsp"].measure(list(points), list(targets), list(held_karp(points)))
    assert 0 <= measured["longer"] < 0.02
    assert measured["invalid"] == 0


@pytest.mark.parametrize("task", TASKS)
def test_answers_that_need_no_learning_are_answers(task):
    points, targets = generate(task, 6, 10, 1)
    scores = [
        TASKS[task].score(p, TASKS[task].trivial(p), row[row >= 0]) for p, row in zip(points, targets, strict=True)
    ]
    assert 0 <= np.mean(scores) < 1


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="n must be at least 3 for hull, got 2"):
        generate("hull", 2, 5, 0)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        generate("hull", 5, 0, 0)
    with pytest.raises(ValueError, match="task must be one of hull, delaunay, tsp, sort, got 'cube'"):
        generate("cube", 5, 5, 0)
    with pytest.raises(ValueError, match="in order"):
        GeometryDataset("hull", (10, 5))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        GeometryDataset("hull", 5, batch_size=0)


def test_a_data_set_gives_batches_of_one_length_and_the_same_ones_again():
    data = GeometryDataset("hull", (5, 9), size=50, seed=3, batch_size=16)
    batches = list(data)
    assert [len(b.points) for b in batches] == [16, 16, 16, 2]
    assert len(data) == 4
    assert all((b.lengths == b.points.shape[1]).all() for b in batches)
    assert len({b.points.shape[1] for b in batches}) > 1
    for one, other in zip(batches, DataLoader(data, batch_size=None), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(
        batches[0].points[:2, :5], next(iter(GeometryDataset("hull", (5, 9), seed=4))).points[:2, :5]
    )


def test_workers_share_the_batches(monkeypatch):
    data = GeometryDataset("sort", 4, size=40, batch_size=8)
    whole = [b.points for b in data]
    parts = []
    for worker in range(2):
        info = type("Info", (), {"id": worker, "num_workers": 2})
        monkeypatch.setattr("ptrnet_impl.data.get_worker_info", lambda info=info: info)
        parts.append([b.points for b in data])
    assert all(torch.equal(whole[i], parts[i % 2][i // 2]) for i in range(5))


def test_unequal_instances_are_filled_up():
    batch = collate([np.ones((2, 3)), np.ones((4, 3))], [[1, 0], [2]])
    assert batch.points.shape == (2, 4, 3)
    assert batch.points[0, 2:].abs().sum() == 0
    assert batch.lengths.tolist() == [2, 4]
    assert batch.targets.tolist() == [[1, 0, -1], [2, -1, -1]]
    assert collate([np.ones((2, 1))], [[1, 0]], end_symbol=False).targets.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="with one d"):
        collate([np.ones((2, 3)), np.ones((2, 2))], [[0], [0]])
    with pytest.raises(ValueError, match="as many, and some"):
        collate([], [])


# The authors' files


@pytest.mark.parametrize(
    ("task", "name"),
    [("hull", "convex_hull_6.txt"), ("delaunay", "delaunay_6.txt"), ("tsp", "tsp6.txt"), ("sort", "sort6.txt")],
)
def test_what_is_written_is_read_again(task, name, tmp_path):
    points, targets = generate(task, 6, 5, 0)
    answers = [row[row >= 0] for row in targets]
    path = write_vinyals_file(tmp_path / name, list(points), answers, task)
    read = read_vinyals_file(path)
    assert [p.tolist() for p, _ in read] == points.tolist()
    assert [a.tolist() for _, a in read] == [a.tolist() for a in answers]
    assert len(read_vinyals_file(path, limit=2)) == 2


def test_the_authors_format_counts_from_one_and_closes_hulls_and_tours(tmp_path):
    path = tmp_path / "convex_hull_4_test.txt"
    path.write_text("0.0 0.0 1.0 0.0 0.5 0.4 0.4 1.0 output 1 2 4 1 \n\n")
    ((points, answer),) = read_vinyals_file(path)
    assert points.tolist() == [[0, 0], [1, 0], [0.5, 0.4], [0.4, 1.0]]
    assert answer.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0 1 0 1 1 output 0 1 2", r"line 1: indices are from 1, got 0 \(a file with indices from 0\?\)"),
        ("0 0 1 0 1 1 output 1 2 4", "at most the number of points, 3, got 4"),
        ("0 0 1 0 1 output 1 2", "coordinates in groups of 2, got 5"),
        ("0 0 1 0 1 nan output 1 2", "finite coordinates"),
        ("0 0 1 0 1 1", "the word output"),
        ("0 0 1 x 1 1 output 1", "could not convert string to float: 'x'"),
        ("0 0 1 0 1 1 output 1 2.5", "invalid literal"),
        ("0 0 1 0 1 1 output", "has no index behind output"),
        ("", "holds no instance"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(line, message, tmp_path):
    path = tmp_path / "convex_hull.txt"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_vinyals_file(path)


def test_a_file_must_fit_its_task(tmp_path):
    path = tmp_path / "some.txt"
    path.write_text("0 0 1 0 1 1 output 1 2 1\n")
    with pytest.raises(ValueError, match="task must be given"):
        read_vinyals_file(path)
    with pytest.raises(ValueError, match="each of the 3 points once"):
        read_vinyals_file(path, "tsp")
    path.write_text("0 0 1 0 1 1 output 1 2\n")
    with pytest.raises(ValueError, match="indices in triples, got 2"):
        read_vinyals_file(path, "delaunay")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text file"):
        read_vinyals_file(path, "tsp")
    with pytest.raises(FileNotFoundError):
        read_vinyals_file(tmp_path / "none.txt", "tsp")
    with pytest.raises(ValueError, match="indices below the number of points"):
        write_vinyals_file(path, [np.zeros((2, 2))], [[0, 2]], "hull")
    with pytest.raises(ValueError, match="as many"):
        write_vinyals_file(path, [np.zeros((2, 2))], [], "hull")


# Points and TSPLIB


def test_points_are_read_from_lines():
    expected = [[0.5, 1.0], [2.0, -3.0]]
    for text in ("0.5,1\n2,-3\n", "x,y\n0.5, 1\n\n2;-3", "# points\n0.5\t1\n2 -3\n"):
        assert read_points(text).tolist() == expected
    assert read_points("3\n1\n", 1).tolist() == [[3.0], [1.0]]
    for text, message in (
        ("", "holds no point"),
        ("1,2\n1,2,3", "line 2: must be 2"),
        ("1,2\n1,inf", "line 2: must be 2"),
    ):
        with pytest.raises(ValueError, match=message):
            read_points(text)
    with pytest.raises(ValueError, match="line 2: could not convert"):
        read_points("1,2\na,b")


def test_a_figure_is_moved_and_scaled_alike():
    points = np.array([[10.0, 20.0], [30.0, 25.0]])
    assert unit_square(points).tolist() == [[0, 0], [1, 0.25]]
    assert unit_square(points[:1]).tolist() == [[0, 0]]


def test_tsplib_s_distances_give_its_optimum(tmp_path):
    path = tmp_path / "burma14.tsp"
    path.write_text(BURMA14)
    problem = read_tsplib(path)
    assert (problem.name, len(problem.points), problem.edge_weight_type) == ("burma14", 14, "GEO")
    assert problem.tour_length(held_karp(problem.points, distance=problem.distances())) == 3323


def test_tsplib_s_other_roundings(tmp_path):
    path = tmp_path / "three.tsp"
    expected = {"EUC_2D": [1, 1], "CEIL_2D": [2, 2], "ATT": [1, 1]}
    for kind, wanted in expected.items():
        path.write_text(
            f"NAME : three\nTYPE : TSP\nDIMENSION : 3\nEDGE_WEIGHT_TYPE : {kind}\nNODE_COORD_SECTION\n"
            "1 0 0\n2 1 1\n3 1.4e0 0\nEOF\n"
        )
        assert read_tsplib(path).distances()[0, 1:].tolist() == wanted


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("GEO", "EXPLICIT", "got TSP and EXPLICIT"),
        ("TYPE: TSP", "TYPE: ATSP", "got ATSP and GEO"),
        ("NODE_COORD_SECTION", "DISPLAY_DATA_SECTION", "has no NODE_COORD_SECTION"),
        ("DIMENSION: 14", "DIMENSION: 15", "must hold cities 1 to 15, got 14"),
        ("16.47       94.44", "16.47", "is no city with two coordinates"),
        ("   2  16.47", "   1  16.47", "city 1 is there twice"),
        ("94.44", "nan", "not finite"),
    ],
)
def test_a_broken_tsplib_file_is_refused(old, new, message, tmp_path):
    path = tmp_path / "broken.tsp"
    path.write_text(BURMA14.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_tsplib(path)


def test_a_byte_order_mark_and_a_mistyped_first_line_lose_no_point():
    expected = [[0, 0], [1, 0], [0, 1]]
    assert read_points("\ufeff0,0\n1,0\n0,1\n").tolist() == expected
    assert read_points("# made by hand\nx,y\n0,0\n1,0\n0,1\n").tolist() == expected
    with pytest.raises(ValueError, match="line 1"):
        read_points("0.0,O.0\n1,0\n0,1\n")
