"""Two processes train one network: the same as one that sees all samples."""

import json

import pytest
import torch
import torch.distributed.fsdp
from torch import multiprocessing

import tersor
from tests.sessions import workers
from tests.sessions.toys import X, Y, build


def test_distributed_data_parallel(tmp_path):
    multiprocessing.spawn(workers.parallel, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    for kind in ("state", "resumed", "final"):
        assert all(torch.equal(value, found[1][kind][name]) for name, value in found[0][kind].items())
    for each in found:
        assert all(torch.equal(value, each["resumed"][name]) for name, value in each["state"].items())
        assert torch.equal(each["drawn"], each["redrawn"])  # each process goes on with its own random numbers
    assert not torch.equal(found[0]["drawn"], found[1]["drawn"])
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    session = tersor.prepare(model, workers.RULES, optimizer=optimizer)
    workers.loop(session, model, X, Y, workers.STEPS)
    for name, value in model.state_dict().items():
        assert found[0]["state"][name].float() == pytest.approx(value.float(), abs=1e-5), name
    assert [json.loads(line)["step"] for line in (tmp_path / "run.jsonl").read_text().splitlines()] == [2, 4]


@pytest.mark.skipif(not hasattr(torch.distributed.fsdp, "fully_shard"), reason="this torch has no FSDP2")
def test_fully_sharded_data_parallel(tmp_path):
    multiprocessing.spawn(workers.sharded, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    session = tersor.prepare(model, workers.SHARDED, optimizer=optimizer)
    workers.loop(session, model, X, Y, workers.STEPS)
    for name, value in session.finalize().state_dict().items():
        assert torch.equal(found[0][name], found[1][name])
        assert found[0][name] == pytest.approx(value, abs=1e-4), name
