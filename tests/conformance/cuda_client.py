"""torch.cuda itself: streams, events, memory, properties, graphs, sharing, profiling; see suite.py."""
import torch

from suite import case, main


@case("torch.cuda.Stream: wait_stream, record_stream, priorities")
def streams():
    low, high = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
    assert high.priority < low.priority, (high.priority, low.priority)
    x = torch.ones(1000, device="cuda")
    with torch.cuda.stream(low):
        y = x * 2
    high.wait_stream(low)
    with torch.cuda.stream(high):
        y.record_stream(high)
        z = y + 1
    torch.cuda.current_stream().wait_stream(high)
    assert z.sum().item() == 3000


if __name__ == "__main__":
    main()
