"""The router as a function: its settings come from the environment, everything else from the package."""  # noqa: INP001 - a folder to deploy, not a package

from hotseat.cluster.router.app import main

if __name__ == "__main__":
    main()
