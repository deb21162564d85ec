"""A Ray cluster of several nodes on this machine, in a process of its own: python cluster.py NAME…

Prints its address, then does what it is told, a line each: `kill NAME`, `add NAME`; it ends with its standard input.
"""

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
MEMORY_BYTES = 100 << 20
SOON = {
    # A node that does not answer is taken for dead after a second or so, not after half a minute.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


def main(names: list[str]) -> None:
    from ray.cluster_utils import Cluster

    cluster, nodes = Cluster(), {}

    def add(name: str) -> None:
        head = {} if nodes else {"include_dashboard": False, "_system_config": SOON}
        nodes[name] = cluster.add_node(num_cpus=1, object_store_memory=MEMORY_BYTES, node_name=name, **head)

    try:
        for name in names:
            add(name)
        print(cluster.address, flush=True)
        for line in sys.stdin:
            word, name = line.split()
            if word == "kill":
                cluster.remove_node(nodes.pop(name), allow_graceful=False)
            else:
                add(name)
            print(line, end="", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
