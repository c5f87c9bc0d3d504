"""gRPC backends and clients of the live tests, without generated code: messages are plain bytes.

backends NAME=MS...      serve on free ports, print {"ports": [...]}, answer with the own name after MS
load ADDRESS RATE        call at RATE per second until killed
count TARGET CALLS       make CALLS calls, print {"counts": {...}, "failed": [...]}
"""

import json
import random
import sys
import threading
import time
from concurrent import futures

import grpc

METHOD = "/traflux.live.Echo/Name"
DEADLINE_S = 3.0
WORKERS = 8


def server(name, median_ms):
    draw = random.Random(name)

    def answer(request, context):
        time.sleep(median_ms * 1e-3 * draw.lognormvariate(0.0, 0.35))
        return name.encode()

    handler = grpc.method_handlers_generic_handler(
        "traflux.live.Echo", {"Name": grpc.unary_unary_rpc_method_handler(answer)}
    )
    made = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=[("grpc.so_reuseport", 0)])
    made.add_generic_rpc_handlers((handler,))
    port = made.add_insecure_port("127.0.0.1:0")
    made.start()
    return made, port


def backends(arguments):
    servers = [server(name, float(ms)) for name, ms in (a.split("=") for a in arguments)]
    print(json.dumps({"ports": [port for _, port in servers]}), flush=True)
    threading.Event().wait()


def load(address, rate):
    call = grpc.insecure_channel(address).unary_unary(METHOD)
    draw = random.Random(address)
    due = time.monotonic()
    # A call whose handle is collected is cancelled.
    pending = set()
    while True:
        due += draw.expovariate(float(rate))
        time.sleep(max(0.0, due - time.monotonic()))
        made = call.future(b"", timeout=DEADLINE_S)
        pending.add(made)
        made.add_done_callback(pending.discard)


def count(target, calls):
    counts, failed, lock = {}, [], threading.Lock()
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        call = channel.unary_unary(METHOD)

        def one(_):
            try:
                name = call(b"", timeout=DEADLINE_S).decode()
                with lock:
                    counts[name] = counts.get(name, 0) + 1
            except grpc.RpcError as error:
                with lock:
                    failed.append(f"{error.code().name}: {error.details()}")

        with futures.ThreadPoolExecutor(max_workers=WORKERS) as pool:
            list(pool.map(one, range(int(calls))))
    print(json.dumps({"counts": counts, "failed": failed}))


if __name__ == "__main__":
    if sys.argv[1] == "backends":
        backends(sys.argv[2:])
    elif sys.argv[1] == "load":
        load(sys.argv[2], sys.argv[3])
    else:
        count(sys.argv[2], sys.argv[3])
