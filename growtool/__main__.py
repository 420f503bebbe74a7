"""`python -m growtool`, which is also what `torchrun -m growtool finetune` starts."""

from growtool.cli.app import main

if __name__ == "__main__":
    main()
