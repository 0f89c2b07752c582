"""How nodes reach one another: sockets, certificates, the handshake, framing, live links."""
