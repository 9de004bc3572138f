"""The front: what devices reach of a server, and all that anybody else does.

A TLS server before SuperLink, which is on the loopback and asks nobody who calls its Control API.
It lets through what SuperNodes call, and of that only what a registered node signed; everything
else finds nothing here. Strangers never reach Flower's code: not with a path, not with a body.

    listener    accepts, counts connections, and shakes hands      doors, tls
    exchange    one connection: requests in, answers out           asked, limits
    credentials whose request it is, by the node key's signature   nodes, memory
    upstream    the same request, written anew, to SuperLink
    ledger      who was turned away, and why: DIR/front/audit.log  tally, files
"""
