"""``python -m vidtune``, so that torchrun and Slurm can start it as a module."""

from vidtune.cli.main import main

if __name__ == "__main__":
    main()
