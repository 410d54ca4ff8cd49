"""scripts/bench: native CPU PyTorch against Djinn on the CPU device, the two processes taking turns; the client's own counters per unit; bulk
bandwidth beside what ZeroMQ alone reaches; the cost of one posted command. Prints a table and writes JSON with the facts of the machine.

"Equal threads": both sides get the same number of intra-op threads; Djinn then uses one core more, because the client's front end runs beside the
server. "Equal cores" gives the server one thread less. Both are printed, with the medians of the ratios round by round.
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from harness import BUILD, Server, clean_environment, client_environment

HERE = pathlib.Path(__file__).resolve().parent
MODELS = ("gpt2", "llama", "bert", "t5", "vit", "whisper", "unet", "resnet18")  # of the conformance suite
REPEAT = dict(gpt=10, gpt_item=10, decode=60, cnn=20, add=3000)


class Leg:
    """One process that runs cases on request."""

    def __init__(self, device, environment):
        self.process = subprocess.Popen([sys.executable, str(HERE / "cases.py"), device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: the process for {request} ended with status {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


def machine():
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return dict(cpu=cpu, cores=os.cpu_count(), system=platform.platform(), load=os.getloadavg()[0], when=time.strftime("%Y-%m-%d"))


def in_turns(legs, case, threads, rounds, scale):
    """The answers of each leg, and the ratios second to first round by round."""
    repeat = max(1, int(REPEAT.get(case, 20) * scale))
    for leg in legs.values():  # warm up: allocators, caches, the server's pools
        for _ in range(2):
            leg.ask(case=case, repeat=repeat, threads=threads)
    got = {name: [] for name in legs}
    for _ in range(rounds):
        for name, leg in legs.items():
            got[name].append(leg.ask(case=case, repeat=repeat, threads=threads))
    first, second = got.values()
    a, b = first[-1]["value"], second[-1]["value"]
    if abs(a - b) > 1e-3 * max(1.0, abs(a)):
        raise SystemExit(f"bench: {case}: values differ ({list(legs)}: {a}, {b}); no timing of a wrong answer")
    return got, [y["seconds"] / x["seconds"] for x, y in zip(first, second)]


def compare(native, djinn, case, threads, rounds, scale=1.0):
    got, ratios = in_turns(dict(native=native, djinn=djinn), case, threads, rounds, scale)
    median = lambda name, key: statistics.median(x[key] for x in got[name])
    counters = {k: round(statistics.median(x["counters"][k] for x in got["djinn"]), 2) for k in got["djinn"][0]["counters"]}
    return dict(case=case, unit=got["djinn"][0]["unit"], threads=threads, native_ms=median("native", "seconds") * 1e3, djinn_ms=median("djinn", "seconds") * 1e3,
                djinn_front_ms=median("djinn", "front") * 1e3,
                ratio=statistics.median(ratios), ratio_quartiles=statistics.quantiles(ratios, n=4)[::2], per_unit=counters)


def show(row):
    c = row["per_unit"]
    print(f"{row['case']:14s} {row['note']:14s} native {row['native_ms']:9.4f} ms  djinn {row['djinn_ms']:9.4f} ms/{row['unit']:5s} ratio {row['ratio']:5.2f} "
          f"({row['ratio_quartiles'][0]:.2f}–{row['ratio_quartiles'][1]:.2f})  "
          f"round trips {c['round_trips']:.2f}  messages {c['frames']:.2f}  bytes {c['bytes']:.0f}  ops {c['ops']:.0f}  "
          f"stalls {c['stalls']:.2f} ({c['stall_nanoseconds']/1e6:.2f} ms)", flush=True)


def steps(options, result):
    for threads in options.threads:
        for note, server_threads in (("equal threads", threads), ("equal cores", threads - 1)):
            if server_threads < 1:
                continue
            with Server("--threads", server_threads) as server:
                native = Leg("cpu", clean_environment())
                djinn = Leg("cuda", client_environment(server, DJINN_SUMMARY="off", **({"DJINN_LINK": options.link} if options.link else {})))
                for case in options.cases:
                    row = compare(native, djinn, case, threads, options.rounds, options.scale)
                    row.update(note=f"{note} {threads}", server_threads=server_threads)
                    show(row)
                    result["steps"].append(row)
                native.close()
                djinn.close()


def messages_without_idle_flush(options, result):
    """The yardstick of the issue: data messages per GPT step when only size and synchronisation flush."""
    with Server("--threads", options.threads[-1]) as server:
        djinn = Leg("cuda", client_environment(server, DJINN_SUMMARY="off", DJINN_PERF="no_idle_flush"))
        for case in ("gpt", "gpt_item"):
            for _ in range(3):
                answer = djinn.ask(case=case, repeat=10, threads=1)
            result["messages"].append(dict(case=case, per_step=answer["counters"]))
            c = answer["counters"]
            print(f"{case:10s} no idle flush: {c['frames']:.1f} messages, {c['bytes']/1e3:.1f} kB, {c['round_trips']:.1f} round trips, {c['ops']:.0f} ops per step", flush=True)
        djinn.close()


# What costs something in every op and can be switched off.
SWITCHED = dict(meaning=dict(DJINN_MEANING="off"), error_lines=dict(DJINN_PERF="no_error_lines"))


def switched(what, options, result):
    """What it costs that the server is told what ops are part of, or that errors name lines: the same switched off, in turns."""
    with Server("--threads", options.threads[0]) as server:
        legs = {name: Leg("cuda", client_environment(server, DJINN_SUMMARY="off", **environment)) for name, environment in (("off", SWITCHED[what]), ("on", {}))}
        for case in ("cnn", "gpt", "decode"):
            got, ratios = in_turns(legs, case, options.threads[0], 2 * options.rounds, options.scale)
            front = [y["front"] / x["front"] for x, y in zip(got["off"], got["on"])]
            extra = {k: statistics.median(y["counters"][k] - x["counters"][k] for x, y in zip(got["off"], got["on"])) for k in ("bytes", "frames")}
            row = dict(case=case, ratio=statistics.median(ratios), ratio_quartiles=statistics.quantiles(ratios, n=4)[::2], front=statistics.median(front), extra=extra)
            result[what].append(row)
            print(f"{what} {case:8s} on/off {row['ratio']:.3f} ({row['ratio_quartiles'][0]:.3f}–{row['ratio_quartiles'][1]:.3f}), the client's part "
                  f"{row['front']:.3f}, {extra['bytes']:+.0f} bytes, {extra['frames']:+.2f} messages", flush=True)
        for leg in legs.values():
            leg.close()


def zmq_alone(size):
    done = subprocess.run([str(BUILD / "link_bench"), str(size)], capture_output=True, text=True, timeout=300, check=True)
    return json.loads(done.stdout)["zmq"][0]["gbps"]


def bandwidth(options, result):
    """Copies beside what ZeroMQ alone reaches with messages of that size, the two taking turns."""
    sizes = [4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20][:3 if options.smoke else 5]
    with Server() as server:
        djinn = Leg("cuda", client_environment(server, DJINN_SUMMARY="off"))
        for size in sizes:
            repeat = max(2, min(200, (256 << 20) // size))
            speed = lambda direction: size / djinn.ask(case=f"copy:{direction}:{size}", repeat=repeat)["seconds"] / 1e9
            speed("h2d"), speed("d2h")
            rounds = [dict(zmq=zmq_alone(size), h2d=speed("h2d"), d2h=speed("d2h")) for _ in range(2 if options.smoke else 7)]
            median = lambda f: statistics.median(f(r) for r in rounds)
            row = dict(bytes=size, zmq_gbps=median(lambda r: r["zmq"]))
            for way in ("h2d", "d2h"):
                row[f"{way}_gbps"], row[f"{way}_ratio"] = median(lambda r: r[way]), median(lambda r: r[way] / r["zmq"])
            result["bandwidth"].append(row)
            print(f"copy {size:>9d} B  h2d {row['h2d_gbps']:6.2f} GB/s ({row['h2d_ratio']:.2f} of ZeroMQ alone)  d2h {row['d2h_gbps']:6.2f} GB/s "
                  f"({row['d2h_ratio']:.2f})  ZeroMQ alone {row['zmq_gbps']:6.2f} GB/s", flush=True)
        djinn.close()


def posted_command(options, result):
    with Server() as server:
        done = subprocess.run([str(BUILD / "post_bench"), "--benchmark_format=json"], capture_output=True, text=True, timeout=300, check=True,
                              env=client_environment(server, DJINN_SUMMARY="off", DJINN_LEVEL="call"))
    for b in json.loads(done.stdout)["benchmarks"]:
        if b["aggregate_name"] == "median":
            result["posted"].append(dict(command=b["run_name"].split("/")[0], nanoseconds=round(b["real_time"], 1)))
            print(f"posted {b['run_name'].split('/')[0]:40s} {b['real_time']:7.1f} ns in the client", flush=True)


def main():
    cores = os.cpu_count()
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--json", default=None, help="write the result there")
    parser.add_argument("--threads", default=f"1,{max(1, cores - 1)}", type=lambda s: sorted({int(x) for x in s.split(",")}))
    parser.add_argument("--cases", default=",".join(["cnn,gpt,gpt_item,decode,add", *(f"model:{m}" for m in MODELS)]), type=lambda s: s.split(","))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--link", default=None, help="emulated network, e.g. rtt=1ms,bandwidth=1Gbit")
    parser.add_argument("--smoke", action="store_true", help="the shortest run that touches everything")
    options = parser.parse_args()
    options.scale = 1.0
    if options.smoke:
        options.rounds, options.scale, options.threads = 2, 0.2, options.threads[-1:]
    result = dict(machine=machine(), link=options.link, steps=[], messages=[], meaning=[], error_lines=[], bandwidth=[], posted=[])
    steps(options, result)
    messages_without_idle_flush(options, result)
    for what in SWITCHED:
        switched(what, options, result)
    bandwidth(options, result)
    posted_command(options, result)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
