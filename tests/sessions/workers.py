"""What processes do that train one network together; the tests start them and compare what they saved."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import distributed, nn

import tersor
from tersor import Prune, Quantize, Regrow, Rule, Schedule
from tersor.sessions import Log
from tests.sessions.toys import Round, X, Y, build

RULES = [
    Rule("0.weight", Quantize(bits=4), Prune(density=0.5), schedule=Schedule("linear", end=4), train=Round(rate=0.01)),
    Rule(
        "2.weight", Quantize(bits=4), Prune(density=0.5), regrow=Regrow(every=2, end=9), train=Round(begin=3, rate=0.01)
    ),
]
SHARDED = [Rule("*", Quantize(bits=4), Prune(density=0.5), train=Round(rate=0.01))]
STEPS = 5


def loop(session: tersor.Session, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, count: int) -> None:
    assert session.optimizer is not None
    for _ in range(count):
        session.optimizer.zero_grad()
        session.loss((model(inputs) - targets).square().mean()).backward()
        session.optimizer.step()
        session.step()


def start(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)


def parallel(rank: int, folder: str) -> None:
    """DistributedDataParallel, each process with half of the samples; saved and resumed on the way."""
    start(rank, folder)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    session = tersor.prepare(model, RULES, optimizer=optimizer, log=Log(f"{folder}/run.jsonl", every=2))
    wrapped = nn.parallel.DistributedDataParallel(model)
    own = X[rank::2], Y[rank::2]
    torch.manual_seed(10 + rank)
    loop(session, wrapped, *own, STEPS - 1)
    session.save(f"{folder}/state.pt")
    distributed.barrier()
    loop(session, wrapped, *own, 1)
    drawn = torch.rand(1)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    again = build()
    second = tersor.prepare(
        nn.parallel.DistributedDataParallel(again), RULES, optimizer=torch.optim.SGD(again.parameters(), 0.05, 0.9)
    )
    second.load(f"{folder}/state.pt")
    loop(second, second.model, *own, 1)
    resumed = {name: value.clone() for name, value in again.state_dict().items()}
    redrawn = torch.rand(1)
    torch.save(
        {
            "state": state,
            "resumed": resumed,
            "drawn": drawn,
            "redrawn": redrawn,
            "final": session.finalize().state_dict(),
        },
        Path(folder) / f"rank{rank}.pt",
    )
    distributed.destroy_process_group()


def sharded(rank: int, folder: str) -> None:
    """FSDP2, each process with half of the samples; compressed from the whole state, in a copy made before."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    start(rank, folder)
    model = build()
    session = tersor.prepare(model, SHARDED)
    whole, own = copy.deepcopy(model), set(session.own_parameters())
    mesh = init_device_mesh("cpu", (2,))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh, ignored_params=own)
    ours = {id(parameter) for parameter in own}
    session.join(torch.optim.SGD([p for p in model.parameters() if id(p) not in ours], lr=0.05, momentum=0.9))
    loop(session, model, X[rank::2], Y[rank::2], STEPS)
    whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
    torch.save(session.finalize(whole).state_dict(), Path(folder) / f"rank{rank}.pt")
    distributed.destroy_process_group()
