"""The ServerApp that `superlink` runs, alone in a bundle: asks every node, several times."""

import json
import os
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

POLL_S = 0.2
PATIENCE_S = 300.0

app = ServerApp()
nobody = ClientApp()  # the nodes are stand-ins that run no app


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Write down the seconds of each leg, of which a leg of all nodes is one, and how many came."""
    legs, size, nodes = (int(str(context.run_config[k])) for k in ("legs", "size", "nodes"))
    until = time.monotonic() + PATIENCE_S
    while len(ids := list(grid.get_node_ids())) < nodes and time.monotonic() < until:
        time.sleep(POLL_S)
    took, came = [], 0
    for leg in range(legs):
        began = time.monotonic()
        # Of other bytes in each leg, the same for all nodes: as a model is.
        content = RecordDict({"ask": ConfigRecord({"bytes": os.urandom(size)})})
        messages = [Message(content, node, "query", group_id=str(leg)) for node in ids]
        waiting = set(grid.push_messages(messages))
        while waiting and time.monotonic() < until:
            for reply in grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                came += reply.has_content()
            time.sleep(POLL_S)
        took.append(time.monotonic() - began)
    found = {"legs": took, "came": came, "asked": legs * len(ids)}
    result = Path(os.environ["TACIT_BENCHMARK_RESULT"])
    result.with_suffix(".new").write_text(json.dumps(found))
    result.with_suffix(".new").rename(result)
