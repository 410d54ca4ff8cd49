"""Three operators on a server, without a preload: each input travels once, what lies between stays there, one result comes back.

    python3 -m djinn.backend.server.server --node-id server --control-port 5555 --data-port 5556     # in another terminal, PYTHONPATH=hooks/python
    python3 docs/examples/simple_remote_demo.py [HOST:PORT]                                          # default localhost:5556
"""
import asyncio
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "hooks" / "python"))
from djinn.core.coordinator import CoordinatorConfig, DjinnCoordinator


async def demo(target):
    coordinator = DjinnCoordinator(CoordinatorConfig(node_id="client", tcp_fallback=True))
    await coordinator.start()
    x, y, bias = torch.randn(100, 100), torch.randn(100, 100), torch.randn(100, 100)

    result = await coordinator.execute_remote_operation("aten::matmul", [x, y], target)
    print(f"Matrix multiply: {tuple(x.shape)} @ {tuple(y.shape)} = {tuple(result.shape)}, on {result.device}")
    result2 = await coordinator.execute_remote_operation("aten::add", [result, bias], target)
    print(f"Add bias: {tuple(result2.shape)}")
    result3 = await coordinator.execute_remote_operation("aten::relu", [result2], target)
    print(f"ReLU: {tuple(result3.shape)}")

    expected = torch.relu(torch.matmul(x, y) + bias)
    assert torch.allclose(result3, expected, atol=1e-5), (result3.cpu() - expected).abs().max()
    print("All operations correct")

    s = coordinator.statistics(target)
    print(f"{s['operations']} operators, {s['round_trips']} round trips, {s['messages_sent']} messages and {s['bytes_sent']:,} bytes there, "
          f"{s['bytes_received']:,} bytes back: {s['inputs_sent']} inputs sent ({s['input_bytes_sent']:,} bytes), "
          f"{s['results_fetched']} result fetched ({s['result_bytes_fetched']:,} bytes)")
    await coordinator.stop()


if __name__ == "__main__":
    asyncio.run(demo(sys.argv[1] if len(sys.argv) > 1 else "localhost:5556"))
