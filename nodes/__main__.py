"""`python -m smpc_fl.nodes` is `smpc-fl`."""

from smpc_fl.nodes.cli.main import main

if __name__ == "__main__":
    main(prog_name="smpc-fl")
